"""Weights under Mistral's names, and the params.json of the tiny models."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tiny_checkpoint import Bits

PARAMS = {
    "dim": 16,
    "n_layers": 2,
    "head_dim": 4,
    "hidden_dim": 24,
    "n_heads": 4,
    "n_kv_heads": 2,
    "norm_eps": 1e-5,
    "vocab_size": 32,
}
MOE = {"moe": {"num_experts_per_tok": 2, "num_experts": 4}}
NAMES = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "ffn_norm": "ffn_norm",
    "router": "feed_forward.gate",
}
TOP = {"token_embd": "tok_embeddings", "output_norm": "norm", "output": "output"}


def pairs(rows: Bits, head_dim: int = 4) -> Bits:
    """Reorder rows as Mistral's RoPE wants them."""
    halves = rows.reshape(-1, 2, head_dim // 2, rows.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def mistral_names(weights: Mapping[str, Bits]) -> dict[str, Bits]:
    """Rename canonical tensors as Mistral does."""
    is_moe = "blk.0.router.weight" in weights
    result = {}
    for name, value in weights.items():
        parts = name.split(".")
        if parts[0] != "blk":
            result[TOP[parts[0]] + ".weight"] = value
        elif parts[2] == "expert":
            expert = f"experts.{parts[3]}." if is_moe else ""
            result[f"layers.{parts[1]}.feed_forward.{expert}{parts[4]}.weight"] = value
        else:
            rows = pairs(value) if parts[2] in ("attn_q", "attn_k") else value
            result[f"layers.{parts[1]}.{NAMES[parts[2]]}.weight"] = rows
    return result


def first_release(names: Mapping[str, Bits], layers: int = 2) -> dict[str, Bits]:
    """Put experts together as the eight files of December 2023 have them."""
    result = {
        name.replace("feed_forward.gate", "block_sparse_moe.gate"): value
        for name, value in names.items()
        if ".experts." not in name
    }
    for layer in range(layers):
        for w in ("w1", "w2", "w3"):
            parts = [names[f"layers.{layer}.feed_forward.experts.{e}.{w}.weight"] for e in range(4)]
            stack = [part.T if w == "w2" else part for part in parts]
            result[f"layers.{layer}.block_sparse_moe.{w}"] = np.concatenate(stack)
    return result
