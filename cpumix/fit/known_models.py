"""The shapes of well-known models, so that `cpumix fit` can answer before anything is downloaded.

Each is the model's own config.json as far as it matters here.
"""

from __future__ import annotations

from typing import Any

from cpumix.config import ModelConfig

DEFAULT = "mixtral-8x7b"

_COMMON = {"rms_norm_eps": 1e-5, "num_key_value_heads": 8, "sliding_window": None}
_MIXTRAL = _COMMON | {
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "rope_theta": 1e6,
}
_MISTRAL = _COMMON | {
    "architectures": ["MistralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "rms_norm_eps": 1e-5,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 5e5,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "mixtral-8x7b": _MIXTRAL
    | {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 32768,
    },
    "mixtral-8x22b": _MIXTRAL
    | {
        "vocab_size": 32768,
        "hidden_size": 6144,
        "intermediate_size": 16384,
        "num_hidden_layers": 56,
        "num_attention_heads": 48,
        "max_position_embeddings": 65536,
    },
    "mistral-7b": _MISTRAL
    | {"vocab_size": 32768, "max_position_embeddings": 32768, "rope_theta": 1e6},
    "mistral-7b-v0.1": _MISTRAL
    | {
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "rope_theta": 1e4,
        "sliding_window": 4096,
    },
    "mistral-nemo-12b": _MISTRAL
    | {
        "vocab_size": 131072,
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
    },
    "llama-3.1-8b": _LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "llama-3.1-70b": _LLAMA
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
}
NAMES = tuple(_CONFIGS)


def known_model(name: str) -> ModelConfig:
    """Return the shape of a model in `NAMES`."""
    return ModelConfig.from_huggingface(_CONFIGS[name], name)
