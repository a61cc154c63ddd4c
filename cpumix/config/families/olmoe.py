"""OLMoE: 64 small experts, norms of all of a token's queries and keys, weights of all experts."""

from __future__ import annotations

from typing import Any

from . import llama, mixtral
from .family import Family

FIELDS: dict[str, Any] = llama.FIELDS | {
    "vocab_size": 50304,
    "hidden_size": 2048,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "bos_token_id": None,
    "eos_token_id": 50279,
    "num_local_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "attention_bias": False,
}
MODELS: dict[str, dict[str, Any]] = {"olmoe-1b-7b": {"intermediate_size": 1024}}

OLMOE = Family(
    "OlmoeForCausalLM",
    "olmoe",
    FIELDS,
    (mixtral.DEFUSED, mixtral.FUSED),
    MODELS,
    aliases={"num_experts": "num_local_experts"},
    traits={"qk_norm": "row"},
    base="OlmoeModel",
    gguf="olmoe",
)
