"""Qwen3, dense and with experts: Qwen2 with norms of each head's query and key for its biases."""

from __future__ import annotations

from typing import Any

from . import llama, mixtral, qwen2
from .family import Family

FIELDS: dict[str, Any] = qwen2.FIELDS | {"head_dim": 128, "attention_bias": False}
MOE_FIELDS: dict[str, Any] = FIELDS | {
    "hidden_size": 2048,
    "intermediate_size": 768,
    "num_hidden_layers": 24,
    "num_key_value_heads": 4,
    "head_dim": None,
    "num_local_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3-8b": {
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "max_position_embeddings": 40960,
        "rope_theta": 1e6,
    },
}
MOE_MODELS: dict[str, dict[str, Any]] = {
    "qwen3-30b-a3b": {
        "num_hidden_layers": 48,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rope_theta": 1e6,
        "norm_topk_prob": True,
    },
}

QWEN3 = Family(
    "Qwen3ForCausalLM",
    "qwen3",
    FIELDS,
    (llama.DENSE_NAMES,),
    MODELS,
    idle=frozenset({"sliding_window"}),
    traits={"qk_norm": "head"},
    base="Qwen3Model",
    classifier="Qwen3ForSequenceClassification",
    gguf="qwen3",
)
QWEN3_MOE = Family(
    "Qwen3MoeForCausalLM",
    "qwen3_moe",
    MOE_FIELDS,
    (mixtral.DEFUSED, mixtral.FUSED),
    MOE_MODELS,
    aliases={"num_experts": "num_local_experts", "moe_intermediate_size": "intermediate_size"},
    # intermediate_size is that of layers without experts, which cpumix does not run.
    idle=frozenset({"sliding_window", "intermediate_size"}),
    traits={"qk_norm": "head"},
    base="Qwen3MoeModel",
    classifier="Qwen3MoeForSequenceClassification",
    gguf="qwen3moe",
)
