"""What a model is, in the metadata of a GGUF file for llama.cpp."""

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
from cpumix.store.layout import model_keys

# What llama.cpp does of its own accord with the weights of a token's experts, by architecture.
NORMS_TOPK = {"llama": True, "qwen2": True, "qwen3": True, "qwen3moe": True, "olmoe": False}


def model_metadata(config: ModelConfig, name: str, file_type: int) -> dict[str, Any]:
    """Return the keys that say what the model is.

    Raises ConvertError for a model that llama.cpp would run otherwise than it is.
    """
    kind = config.family.gguf
    if kind not in NORMS_TOPK:
        raise ConvertError(
            f"export: cpumix writes GGUF files of {', '.join(NORMS_TOPK)}, found {kind}. "
            "Convert its Hugging Face checkpoint with llama.cpp."
        )
    if config.is_moe and config.norm_topk_prob != NORMS_TOPK[kind]:
        raise ConvertError(
            f"export: llama.cpp runs {kind} with norm_topk_prob {NORMS_TOPK[kind]}, found "
            f"{config.norm_topk_prob}: it would write other texts. Run the model file with cpumix."
        )
    metadata: dict[str, Any] = {
        "general.architecture": kind,
        "general.type": "model",
        "general.name": name,
        "general.file_type": file_type,
        "general.quantization_version": 2,
        **model_keys(config),
    }
    if kind == "qwen3moe":
        metadata[f"{kind}.expert_feed_forward_length"] = config.intermediate_size
    scaling = _rope_scaling(config)
    return metadata | {f"{kind}.rope.scaling.{key}": value for key, value in scaling.items()}


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
