"""How Hugging Face names the tensors that we call token_embd, attn_q, expert.E.w1 and so on.

w1 is the gate of SwiGLU, w3 the up projection, w2 the down projection. The newer naming of Mixtral
(transformers 5) stacks a layer's experts: gate_up_proj (experts, w1 then w3, hidden) and down_proj
(experts, hidden, intermediate), so each of our matrices is still one contiguous piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import NamedTuple

LAYER = "model.layers.{layer}."
SHARED = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "attn_norm.weight": LAYER + "input_layernorm.weight",
    "attn_q.weight": LAYER + "self_attn.q_proj.weight",
    "attn_k.weight": LAYER + "self_attn.k_proj.weight",
    "attn_v.weight": LAYER + "self_attn.v_proj.weight",
    "attn_output.weight": LAYER + "self_attn.o_proj.weight",
    "ffn_norm.weight": LAYER + "post_attention_layernorm.weight",
}
DENSE = SHARED | {
    "w1": LAYER + "mlp.gate_proj.weight",
    "w3": LAYER + "mlp.up_proj.weight",
    "w2": LAYER + "mlp.down_proj.weight",
}
PER_EXPERT = SHARED | {
    "router.weight": LAYER + "block_sparse_moe.gate.weight",
    "w1": LAYER + "block_sparse_moe.experts.{expert}.w1.weight",
    "w3": LAYER + "block_sparse_moe.experts.{expert}.w3.weight",
    "w2": LAYER + "block_sparse_moe.experts.{expert}.w2.weight",
}
FUSED = SHARED | {
    "router.weight": LAYER + "mlp.gate.weight",
    "w1": LAYER + "mlp.experts.gate_up_proj",
    "w3": LAYER + "mlp.experts.gate_up_proj",
    "w2": LAYER + "mlp.experts.down_proj",
}
STACKED = {"w1": (0, 2), "w3": (1, 2), "w2": (0, 1)}  # (which part, of how many) of a fused expert

# What no engine needs: a table of rotations that old versions saved.
BOOKKEEPING = re.compile(r"(model\.layers\.\d+\.self_attn|model)\.rotary_emb\.inv_freq")
ROUTER = re.compile(r"model\.layers\.\d+\.(block_sparse_moe|mlp)\.gate\.weight")

_CANONICAL = re.compile(r"(?:blk\.(\d+)\.)?(?:expert\.(\d+)\.)?(.+)")


class Place(NamedTuple):
    """In which of its tensors a checkpoint has one of ours, and after how many elements."""

    source_name: str
    source_shape: tuple[int, ...]
    skip: int


def detect(names: Iterable[str], is_moe: bool) -> dict[str, str]:
    """Return the table that fits a checkpoint's names; the older of Mixtral's if none does."""
    for name in names:
        if name.endswith(".mlp.experts.gate_up_proj"):
            return FUSED
        if ".block_sparse_moe." in name:
            return PER_EXPERT
    return PER_EXPERT if is_moe else DENSE


def place(table: Mapping[str, str], canonical: str, shape: tuple[int, ...], experts: int) -> Place:
    """Return where a tensor of our name and shape lies in a checkpoint with `experts` a layer."""
    match = _CANONICAL.fullmatch(canonical)
    assert match is not None
    layer, expert, kind = match.groups()
    source_name = table[kind].format(layer=layer, expert=expert)
    if table is not FUSED or kind not in STACKED:
        return Place(source_name, shape, 0)
    part, parts = STACKED[kind]
    rows, columns = shape
    return Place(
        source_name,
        (experts, parts * rows, columns),
        (int(expert) * parts + part) * prod(shape),
    )
