"""The names that llama.cpp gives the tensors of its architecture "llama", Mixtral among it."""

from __future__ import annotations

from cpumix.config import Role

from .places import Naming, Pairs, Place, Stacked

_LAYER = "blk.{layer}."
_ATTENTION: Naming = {
    Role.EMBEDDING: Place("token_embd.weight"),
    Role.OUTPUT_NORM: Place("output_norm.weight"),
    Role.OUTPUT: Place("output.weight"),
    Role.ATTN_NORM: Place(_LAYER + "attn_norm.weight"),
    Role.WQ: Pairs(_LAYER + "attn_q.weight"),
    Role.WK: Pairs(_LAYER + "attn_k.weight"),
    Role.WV: Place(_LAYER + "attn_v.weight"),
    Role.WO: Place(_LAYER + "attn_output.weight"),
    Role.FFN_NORM: Place(_LAYER + "ffn_norm.weight"),
}
DENSE: Naming = {
    **_ATTENTION,
    Role.W1: Place(_LAYER + "ffn_gate.weight"),
    Role.W3: Place(_LAYER + "ffn_up.weight"),
    Role.W2: Place(_LAYER + "ffn_down.weight"),
}
_ROUTED: Naming = {**_ATTENTION, Role.ROUTER: Place(_LAYER + "ffn_gate_inp.weight")}
MERGED: Naming = {  # one tensor for all experts
    **_ROUTED,
    Role.W1: Stacked(_LAYER + "ffn_gate_exps.weight"),
    Role.W3: Stacked(_LAYER + "ffn_up_exps.weight"),
    Role.W2: Stacked(_LAYER + "ffn_down_exps.weight"),
}
FUSED: Naming = {  # the gate above the up projection
    **_ROUTED,
    Role.W1: Stacked(_LAYER + "ffn_gate_up_exps.weight", part=0, parts=2),
    Role.W3: Stacked(_LAYER + "ffn_gate_up_exps.weight", part=1, parts=2),
    Role.W2: Stacked(_LAYER + "ffn_down_exps.weight"),
}
PER_EXPERT: Naming = {  # before April 2024
    **_ROUTED,
    Role.W1: Place(_LAYER + "ffn_gate.{expert}.weight"),
    Role.W3: Place(_LAYER + "ffn_up.{expert}.weight"),
    Role.W2: Place(_LAYER + "ffn_down.{expert}.weight"),
}
MIXTURE = (MERGED, FUSED, PER_EXPERT)
