"""Mixtral 8x7B and 8x22B: Mistral with a router over experts."""

from __future__ import annotations

from typing import Any

from ..tensors import Role
from . import llama, mistral
from .family import Family, TensorNames

FIELDS: dict[str, Any] = mistral.FIELDS | {
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
_SPARSE, _MLP = "model.layers.{layer}.block_sparse_moe.", "model.layers.{layer}.mlp."
PER_EXPERT = TensorNames(  # transformers 4; version 5 still saves it
    llama.ATTENTION_NAMES
    | {
        Role.ROUTER: _SPARSE + "gate.weight",
        Role.W1: _SPARSE + "experts.{expert}.w1.weight",
        Role.W3: _SPARSE + "experts.{expert}.w3.weight",
        Role.W2: _SPARSE + "experts.{expert}.w2.weight",
    }
)
FUSED = TensorNames(  # transformers 5, as its modules have it
    llama.ATTENTION_NAMES
    | {
        Role.ROUTER: _MLP + "gate.weight",
        Role.W1: _MLP + "experts.gate_up_proj",
        Role.W3: _MLP + "experts.gate_up_proj",
        Role.W2: _MLP + "experts.down_proj",
    },
    stacked=True,
)
DEFUSED = TensorNames(  # GPTQModel on transformers 5
    llama.ATTENTION_NAMES
    | {
        Role.ROUTER: _MLP + "gate.weight",
        Role.W1: _MLP + "experts.{expert}.gate_proj.weight",
        Role.W3: _MLP + "experts.{expert}.up_proj.weight",
        Role.W2: _MLP + "experts.{expert}.down_proj.weight",
    }
)
SWITCH = TensorNames(  # mlx-lm stacks the experts of each matrix
    llama.ATTENTION_NAMES
    | {
        Role.ROUTER: _SPARSE + "gate.weight",
        Role.W1: _SPARSE + "switch_mlp.gate_proj.weight",
        Role.W3: _SPARSE + "switch_mlp.up_proj.weight",
        Role.W2: _SPARSE + "switch_mlp.down_proj.weight",
    },
    stacked=True,
)
MODELS: dict[str, dict[str, Any]] = {
    "mixtral-8x7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 32768,
    },
    "mixtral-8x22b": {
        "vocab_size": 32768,
        "hidden_size": 6144,
        "intermediate_size": 16384,
        "num_hidden_layers": 56,
        "num_attention_heads": 48,
        "max_position_embeddings": 65536,
    },
}

MIXTRAL = Family(
    "MixtralForCausalLM",
    "mixtral",
    FIELDS,
    (PER_EXPERT, FUSED, DEFUSED, SWITCH),
    MODELS,
    aliases={"num_experts": "num_local_experts"},
    base="MixtralModel",
    classifier="MixtralForSequenceClassification",
)
