"""Mistral 7B and its successors: Llama with a sliding window."""

from __future__ import annotations

from typing import Any

from . import llama
from .family import Family

FIELDS: dict[str, Any] = llama.FIELDS | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
_7B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
}
MODELS: dict[str, dict[str, Any]] = {
    "mistral-7b": _7B | {"vocab_size": 32768, "rope_theta": 1e6, "sliding_window": None},
    "mistral-7b-v0.1": _7B | {"vocab_size": 32000, "rope_theta": 1e4, "sliding_window": 4096},
    "mistral-nemo-12b": _7B
    | {
        "vocab_size": 131072,
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "sliding_window": None,
    },
}

MISTRAL = Family(
    "MistralForCausalLM",
    "mistral",
    FIELDS,
    (llama.DENSE_NAMES,),
    MODELS,
    base="MistralModel",
    classifier="MistralForSequenceClassification",
)
