"""Llama 2 and 3, and the many models built like them; others start from its fields and names."""

from __future__ import annotations

from typing import Any

from ..tensors import Role
from .family import Family, TensorNames

FIELDS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ATTENTION_NAMES = {
    Role.EMBEDDING: "model.embed_tokens.weight",
    Role.ATTN_NORM: "model.layers.{layer}.input_layernorm.weight",
    Role.WQ: "model.layers.{layer}.self_attn.q_proj.weight",
    Role.WK: "model.layers.{layer}.self_attn.k_proj.weight",
    Role.WV: "model.layers.{layer}.self_attn.v_proj.weight",
    Role.WO: "model.layers.{layer}.self_attn.o_proj.weight",
    Role.BQ: "model.layers.{layer}.self_attn.q_proj.bias",
    Role.BK: "model.layers.{layer}.self_attn.k_proj.bias",
    Role.BV: "model.layers.{layer}.self_attn.v_proj.bias",
    Role.BO: "model.layers.{layer}.self_attn.o_proj.bias",
    Role.Q_NORM: "model.layers.{layer}.self_attn.q_norm.weight",
    Role.K_NORM: "model.layers.{layer}.self_attn.k_norm.weight",
    Role.FFN_NORM: "model.layers.{layer}.post_attention_layernorm.weight",
    Role.OUTPUT_NORM: "model.norm.weight",
    Role.OUTPUT: "lm_head.weight",
    Role.SCORE: "score.weight",
}
DENSE_NAMES = TensorNames(
    ATTENTION_NAMES
    | {
        Role.W1: "model.layers.{layer}.mlp.gate_proj.weight",
        Role.W3: "model.layers.{layer}.mlp.up_proj.weight",
        Role.W2: "model.layers.{layer}.mlp.down_proj.weight",
    }
)
_LLAMA_3_1 = {
    "rms_norm_eps": 1e-5,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_theta": 5e5,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": _LLAMA_3_1
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "llama-3.1-70b": _LLAMA_3_1
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
}

LLAMA = Family(
    "LlamaForCausalLM",
    "llama",
    FIELDS | {"attention_bias": False},
    (DENSE_NAMES,),
    MODELS,
    base="LlamaModel",
    classifier="LlamaForSequenceClassification",
)
