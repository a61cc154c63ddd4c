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

MISTRAL = Family("MistralForCausalLM", "mistral", FIELDS, (llama.DENSE_NAMES,))
