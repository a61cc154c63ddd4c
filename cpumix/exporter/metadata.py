"""What a model is, in the metadata of a GGUF file of llama.cpp's architecture "llama"."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.config.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    YarnScaling,
    yarn_attention_factor,
)
from cpumix.errors import ConvertError

# Families that llama.cpp runs as "llama".
_FAMILIES = ("MixtralForCausalLM", "MistralForCausalLM", "LlamaForCausalLM")


def model_metadata(config: ModelConfig, name: str, file_type: int) -> dict[str, Any]:
    """Return the keys that say what the model is. Raises ConvertError for another family."""
    if config.architecture not in _FAMILIES:
        raise ConvertError(
            f"export: cpumix writes GGUF files of {', '.join(_FAMILIES)}, found "
            f"{config.architecture}. Convert its Hugging Face checkpoint with llama.cpp."
        )
    if config.qkv_bias or config.output_bias:
        raise ConvertError(
            "export: expected attention without biases, as llama.cpp's Mixtral and Llama have it, "
            "found some. Convert its Hugging Face checkpoint with llama.cpp."
        )
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": name,
        "general.file_type": file_type,
        "general.quantization_version": 2,
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": float(config.rope_theta),
        "llama.vocab_size": config.vocab_size,
    }
    if config.is_moe:
        metadata["llama.expert_count"] = config.num_local_experts
        metadata["llama.expert_used_count"] = config.num_experts_per_tok
    if config.sliding_window is not None:
        metadata["llama.attention.sliding_window"] = config.sliding_window
    return metadata | {f"llama.rope.scaling.{k}": v for k, v in _rope_scaling(config).items()}


def _rope_scaling(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if isinstance(scaling, LinearScaling):
        return {"type": "linear", "factor": scaling.factor}
    if isinstance(scaling, YarnScaling):
        usual = yarn_attention_factor(scaling.factor, None, None)
        return {
            "type": "yarn",
            "factor": scaling.factor,
            "original_context_length": scaling.original_max_position_embeddings,
            "yarn_beta_fast": scaling.beta_fast,
            "yarn_beta_slow": scaling.beta_slow,
        } | (
            {}
            if scaling.attention_factor == usual
            else {"attn_factor": scaling.attention_factor / usual}
        )
    return {}


def rope_factors(config: ModelConfig) -> NDArray[np.float32] | None:
    """Return by how much Llama 3.1 slows each rotation, (head_dim / 2,); None for others."""
    scaling = config.rope_scaling
    if not isinstance(scaling, Llama3Scaling):
        return None
    frequency = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    turns = scaling.original_max_position_embeddings * frequency / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    factors: NDArray[np.float32] = (1 / ((1 - kept) / scaling.factor + kept)).astype(np.float32)
    return factors
