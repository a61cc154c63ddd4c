"""What a GGUF file's metadata say of the model, in the terms of a config.json."""

from __future__ import annotations

from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.errors import ConfigError, quoted

from ...containers.gguf import GgufModel

ROPE_FACTORS = "rope_freqs.weight"  # by how much Llama 3.1 slows each rotation
_NOT_MODELS = {  # by general.type or general.architecture
    "imatrix": "an importance matrix, which helps to quantize a model",
    "adapter": "a LoRA adapter, which changes a model",
    "mmproj": "the image part of a model",
    "clip": "the image part of a model",
}
# Config.json's field, and the key after "llama." that has it.
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
_HARMLESS = {"vocab_size", "tensor_data_layout", "rope.scaling.finetuned"}
_SCALING = "rope.scaling."
# Keys whose only value, where they are given, is this one: a field that the model has anyway.
_EQUAL = {"attention.value_length": "head_dim", "rope.dimension_count": "head_dim"}


def config_of(model: GgufModel, where: str) -> ModelConfig:
    """Return a model's config. Raises ConfigError for what cpumix does not run."""
    _refuse_others(model, where)
    values = {
        key.removeprefix("llama."): _scalar(value, key, where)
        for key, value in model.metadata.items()
        if key.startswith("llama.")
    }
    for key in _NEEDED:
        if values.get(key) is None:
            raise ConfigError(f'"{where}": expected the GGUF key llama.{key}, found none.')
    fields = {name: values[key] for name, key in _FIELDS.items() if values.get(key) is not None}
    embedding = model.tensors.get("token_embd.weight")
    rows = embedding.shape[0] if embedding else values.get("vocab_size")
    fields |= {
        "vocab_size": rows or len(model.metadata.get("tokenizer.ggml.tokens", ())),
        "bos_token_id": model.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": model.metadata.get("tokenizer.ggml.eos_token_id", 2),
        "tie_word_embeddings": "output.weight" not in model.tensors,
        "num_key_value_heads": fields.get("num_key_value_heads", fields["num_attention_heads"]),
        "rope_theta": fields.get("rope_theta", 1e4),
        "max_position_embeddings": fields.get("max_position_embeddings", 2048),
        "architectures": [_architecture(fields)],
    }
    fields["rope_scaling"] = _rope_scaling(model, values, fields, where)
    config = ModelConfig.from_huggingface(fields, f'"{where}"')
    _check_others(values, config, where)
    return config


def _refuse_others(model: GgufModel, where: str) -> None:
    """Raise ConfigError for a file that holds something else, or a model that cpumix has not."""
    kind = model.metadata.get("general.type", "model")
    architecture = model.metadata.get("general.architecture")
    if "cpumix.format_version" in model.metadata:
        raise ConfigError(
            f'"{where}": expected a checkpoint, found a model file that cpumix wrote. '
            "Run it, or convert the checkpoint that it was made of."
        )
    for name in (kind, architecture):
        if name in _NOT_MODELS:
            raise ConfigError(
                f'"{where}": expected a model, found {_NOT_MODELS[name]} ({name}). '
                "Name the GGUF file of the model itself."
            )
    if architecture != "llama":
        raise ConfigError(
            f'"{where}": general.architecture: cpumix runs Mixtral, Mistral and Llama models '
            f'from GGUF, all named "llama" there, found {quoted(architecture)}.'
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


def _architecture(fields: dict[str, Any]) -> str:
    """Name the architecture, and take away the fields that it does not have."""
    if fields.get("num_local_experts", 0) > 1:
        return "MixtralForCausalLM"
    for name in ("num_local_experts", "num_experts_per_tok"):
        fields.pop(name, None)
    return "MistralForCausalLM" if "sliding_window" in fields else "LlamaForCausalLM"


def _check_others(values: dict[str, Any], config: ModelConfig, where: str) -> None:
    """Raise ConfigError for a key that may change the result and is not heeded."""
    for key, value in values.items():
        if key in _EQUAL and value != getattr(config, _EQUAL[key]):
            raise ConfigError(
                f'"{where}": llama.{key}: cpumix runs models where that is {_EQUAL[key]} '
                f"{getattr(config, _EQUAL[key])}, found {value}."
            )
        known = key in _EQUAL or key in _HARMLESS or key in _FIELDS.values()
        if not known and not key.startswith(_SCALING):
            raise ConfigError(
                f'"{where}": {quoted("llama." + key)}: a GGUF key unknown to cpumix that may '
                f"change the result, found {quoted(value)}."
            )


def _rope_scaling(
    model: GgufModel, values: dict[str, Any], fields: dict[str, Any], where: str
) -> dict[str, Any] | None:
    """Return the rope_scaling of a config.json."""
    kind = values.get(_SCALING + "type", "none")
    if kind != "none":
        given = {key.removeprefix(_SCALING): value for key, value in values.items()}
        scaling = {"rope_type": kind, "factor": given.get("factor", 1.0)}
        if "original_context_length" in given:
            scaling["original_max_position_embeddings"] = given["original_context_length"]
        return scaling
    if ROPE_FACTORS not in model.tensors:
        return None
    stored = model.tensors[ROPE_FACTORS]
    head_dim = fields.get("head_dim", fields["hidden_size"] // fields["num_attention_heads"])
    if stored.dtype != "F32" or stored.shape != (head_dim // 2,):
        raise ConfigError(
            f'"{where}": {ROPE_FACTORS}: expected {head_dim // 2} numbers in F32, found '
            f"{stored.shape} in {stored.dtype}."
        )
    factors = stored.read()
    scaling = {"rope_type": "llama3", "factor": float(factors.max())}
    scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    for original in (8192, values.get(_SCALING + "original_context_length"), 4096, 16384, 32768):
        scaling["original_max_position_embeddings"] = original
        if original and np.allclose(
            _llama3_factors(scaling, fields["rope_theta"], head_dim), factors, 1e-5
        ):
            return scaling
    raise ConfigError(
        f'"{where}": {ROPE_FACTORS}: cpumix runs the slowed rotations of Llama 3.1, found other '
        f"factors, up to {factors.max():g}."
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
