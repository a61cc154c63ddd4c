"""What a GGUF file's metadata say of the model, in the terms of a config.json."""

from __future__ import annotations

from collections.abc import Collection
from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig, without_fields
from cpumix.config.values import whole
from cpumix.errors import ConfigError, quoted

from ...head import Head

ROPE_FACTORS = "rope_freqs.weight"  # by how much Llama 3.1 slows each rotation
_NOT_MODELS = {  # by general.type or general.architecture
    "imatrix": "an importance matrix, which helps to quantize a model",
    "adapter": "a LoRA adapter, which changes a model",
    "mmproj": "the image part of a model",
    "clip": "the image part of a model",
}
# By general.architecture, those that are not "llama": the architecture in config.json, and what
# llama.cpp's code, and no key, says of them.
_FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"]},
    "qwen3moe": {"architectures": ["Qwen3MoeForCausalLM"], "norm_topk_prob": True},
    "olmoe": {"architectures": ["OlmoeForCausalLM"], "norm_topk_prob": False},
}
# Config.json's field, and the key after the architecture's name that has it.
_FIELDS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
    "max_position_embeddings": "context_length",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
}
_NEEDED = ("embedding_length", "feed_forward_length", "block_count", "attention.head_count")
_SCALING = "rope.scaling."
_YARN = {  # after "rope.scaling.", and in config.json
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
_HARMLESS = {"vocab_size", "tensor_data_layout", "rope.scale_linear"} | {
    _SCALING + key for key in ("type", "factor", "finetuned", *_YARN)
}
# Keys whose only value, where they are given, is this one: a field that the model has anyway.
_EQUAL = {
    "attention.value_length": "head_dim",
    "rope.dimension_count": "head_dim",
    "expert_feed_forward_length": "intermediate_size",
    "expert_weights_norm": "norm_topk_prob",
}


def config_of(model: Head, where: str, ignored: Collection[str] = ()) -> ModelConfig:
    """Return a model's config. Raises ConfigError for what cpumix does not run."""
    _refuse_others(model, where)
    metadata = without_fields(model.metadata, ignored, f'"{where}"')
    kind = metadata["general.architecture"]
    values = {
        key.removeprefix(f"{kind}."): _scalar(value, key, where)
        for key, value in metadata.items()
        if key.startswith(f"{kind}.")
    }
    for key in ("expert_count", "attention.sliding_window"):
        if values.get(key) == 0:  # another way to say that there are none
            del values[key]
    experts = whole(values.get("expert_count", 1), f"{kind}.expert_count", f'"{where}"')
    is_mixture = experts > 1
    for key in (*_NEEDED, *(["expert_used_count"] if is_mixture else [])):
        if values.get(key) is None:
            raise ConfigError(f'"{where}": expected the GGUF key {kind}.{key}, found none.')
    fields = {name: values[key] for name, key in _FIELDS.items() if values.get(key) is not None}
    if not is_mixture:
        for name in ("num_local_experts", "num_experts_per_tok"):
            fields.pop(name, None)
    embedding = model.tensors.get("token_embd.weight")
    bos, eos = (model.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("bos", "eos"))
    fields |= {
        "vocab_size": embedding.shape[0] if embedding else values.get("vocab_size"),
        "bos_token_id": bos if isinstance(bos, int) else None,
        "eos_token_id": eos if isinstance(eos, int) else None,
        "tie_word_embeddings": "output.weight" not in model.tensors,
        "num_key_value_heads": fields.get("num_key_value_heads", fields["num_attention_heads"]),
        "rope_theta": fields.get("rope_theta", 1e4),
        "max_position_embeddings": fields.get("max_position_embeddings", 2048),
        **(_FAMILIES.get(kind) or _like_llama(model, fields, is_mixture)),
    }
    if kind == "qwen3moe":
        fields["moe_intermediate_size"] = values.get("expert_feed_forward_length")
    config = ModelConfig.from_huggingface(fields, f'"{where}"')
    _check_others(values, config, where)
    scaling = _rope_scaling(model, values, config, where)
    if scaling is None:
        return config
    return ModelConfig.from_huggingface(fields | {"rope_scaling": scaling}, f'"{where}"')


def _refuse_others(model: Head, where: str) -> None:
    """Raise ConfigError for a file that holds something else, or a model that cpumix has not."""
    kind = str(model.metadata.get("general.type", "model"))
    architecture = str(model.metadata.get("general.architecture", "none"))
    for name in (kind, architecture):
        if name in _NOT_MODELS:
            raise ConfigError(
                f'"{where}": expected a model, found {_NOT_MODELS[name]} ({name}). '
                "Name the GGUF file of the model itself."
            )
    if architecture != "llama" and architecture not in _FAMILIES:
        raise ConfigError(
            f'"{where}": general.architecture: cpumix runs GGUF files of the architectures '
            f"llama (Mixtral and Mistral too), {', '.join(_FAMILIES)}, found "
            f"{quoted(architecture)}."
        )
    if not model.tensors:
        raise ConfigError(f'"{where}": expected the weights of a model, found only a vocabulary.')


def _scalar(value: Any, key: str, where: str) -> Any:
    """Return a value as config.json has it: one for all layers, and a decimal number if it was."""
    if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
        value = value[0].item()
    if isinstance(value, np.ndarray):
        raise ConfigError(
            f'"{where}": {key}: cpumix runs models whose layers are alike, found '
            f"{quoted(value.tolist())}."
        )
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _like_llama(model: Head, fields: dict[str, Any], is_mixture: bool) -> dict[str, Any]:
    """Return what tells Mixtral, Mistral and Llama apart, which GGUF does not."""
    if is_mixture:
        return {"architectures": ["MixtralForCausalLM"]}
    if "sliding_window" in fields:
        return {"architectures": ["MistralForCausalLM"]}
    has_bias = "blk.0.attn_q.bias" in model.tensors
    return {"architectures": ["LlamaForCausalLM"], "attention_bias": has_bias}


def _check_others(values: dict[str, Any], config: ModelConfig, where: str) -> None:
    """Raise ConfigError for a key that may change the result and is not heeded."""
    kind = config.family.gguf
    for key, value in values.items():
        if key in _EQUAL and value != getattr(config, _EQUAL[key]):
            raise ConfigError(
                f'"{where}": {kind}.{key}: cpumix runs models where that is {_EQUAL[key]} '
                f"{getattr(config, _EQUAL[key])}, found {value}."
            )
        if key not in _EQUAL and key not in _HARMLESS and key not in _FIELDS.values():
            raise ConfigError(
                f'"{where}": {quoted(f"{kind}.{key}")}: a GGUF key unknown to cpumix that '
                f"may change the result, found {quoted(value)}."
            )


def _rope_scaling(
    model: Head, values: dict[str, Any], config: ModelConfig, where: str
) -> dict[str, Any] | None:
    """Return the rope_scaling of a config.json."""
    factor = values.get(_SCALING + "factor") or values.get("rope.scale_linear") or 1.0
    kind = values.get(_SCALING + "type", "linear")
    if kind != "none" and (kind != "linear" or factor != 1):
        given = {
            name: values[_SCALING + key] for key, name in _YARN.items() if _SCALING + key in values
        }
        return {"rope_type": kind, "factor": factor} | given
    if ROPE_FACTORS not in model.tensors:
        return None
    stored = model.tensors[ROPE_FACTORS]
    if stored.dtype != "F32" or stored.shape != (config.head_dim // 2,):
        raise ConfigError(
            f'"{where}": {ROPE_FACTORS}: expected {config.head_dim // 2} numbers in F32, found '
            f"{stored.shape} in {stored.dtype}."
        )
    factors = stored.read()
    scaling = {"rope_type": "llama3", "factor": float(factors.max())}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    lengths = (8192, values.get(_SCALING + "original_context_length"), 4096, 16384, 32768)
    for length in lengths if (factors >= 1).all() else ():
        if isinstance(length, int) and length > 0:
            scaling["original_max_position_embeddings"] = length
            theirs = _llama3_factors(scaling, config.rope_theta, config.head_dim)
            if np.allclose(theirs, factors, 1e-5):
                return scaling
    raise ConfigError(
        f'"{where}": {ROPE_FACTORS}: cpumix runs the slowed rotations of Llama 3.1, found other '
        f"factors, from {factors.min():g} to {factors.max():g}."
    )


def _llama3_factors(scaling: dict[str, Any], theta: float, head_dim: int) -> NDArray[np.float64]:
    """Return by how much llama3 slows each rotation, 1 for the fast ones."""
    turns = scaling["original_max_position_embeddings"] / (
        2 * pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    )
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    fast = np.clip((turns - low) / (high - low), 0, 1)
    factors: NDArray[np.float64] = 1 / ((1 - fast) / scaling["factor"] + fast)
    return factors
