"""Qwen2 and Qwen2.5: Llama with biases of queries, keys and values."""

from __future__ import annotations

from typing import Any

from . import llama
from .family import Family

FIELDS: dict[str, Any] = llama.FIELDS | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "bos_token_id": None,
    "eos_token_id": None,
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2.5-7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
    },
}

QWEN2 = Family(
    "Qwen2ForCausalLM",
    "qwen2",
    FIELDS,
    (llama.DENSE_NAMES,),
    MODELS,
    idle=frozenset({"sliding_window"}),  # it is one only with use_sliding_window
    traits={"qkv_bias": True},
    base="Qwen2Model",
    classifier="Qwen2ForSequenceClassification",
    gguf="qwen2",
)
