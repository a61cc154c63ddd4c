"""The names that transformers gives tensors, and the quantizers and mlx-lm after it."""

from __future__ import annotations

from .places import Naming, Place, Stacked

_LAYER = "model.layers.{layer}."
_ATTENTION: Naming = {
    "token_embd.weight": Place("model.embed_tokens.weight"),
    "output_norm.weight": Place("model.norm.weight"),
    "output.weight": Place("lm_head.weight"),
    "attn_norm.weight": Place(_LAYER + "input_layernorm.weight"),
    "attn_q.weight": Place(_LAYER + "self_attn.q_proj.weight"),
    "attn_k.weight": Place(_LAYER + "self_attn.k_proj.weight"),
    "attn_v.weight": Place(_LAYER + "self_attn.v_proj.weight"),
    "attn_output.weight": Place(_LAYER + "self_attn.o_proj.weight"),
    "ffn_norm.weight": Place(_LAYER + "post_attention_layernorm.weight"),
}
DENSE: Naming = {
    **_ATTENTION,
    "w1": Place(_LAYER + "mlp.gate_proj.weight"),
    "w3": Place(_LAYER + "mlp.up_proj.weight"),
    "w2": Place(_LAYER + "mlp.down_proj.weight"),
}
_SPARSE, _MLP = _LAYER + "block_sparse_moe.", _LAYER + "mlp."
PER_EXPERT: Naming = {  # transformers 4; version 5 still saves it
    **_ATTENTION,
    "router.weight": Place(_SPARSE + "gate.weight"),
    "w1": Place(_SPARSE + "experts.{expert}.w1.weight"),
    "w3": Place(_SPARSE + "experts.{expert}.w3.weight"),
    "w2": Place(_SPARSE + "experts.{expert}.w2.weight"),
}
FUSED: Naming = {  # transformers 5, as its modules have it: the gate (w1) above the up projection
    **_ATTENTION,
    "router.weight": Place(_MLP + "gate.weight"),
    "w1": Stacked(_MLP + "experts.gate_up_proj", part=0, parts=2),
    "w3": Stacked(_MLP + "experts.gate_up_proj", part=1, parts=2),
    "w2": Stacked(_MLP + "experts.down_proj"),
}
DEFUSED: Naming = {  # GPTQModel on transformers 5
    **_ATTENTION,
    "router.weight": Place(_MLP + "gate.weight"),
    "w1": Place(_MLP + "experts.{expert}.gate_proj.weight"),
    "w3": Place(_MLP + "experts.{expert}.up_proj.weight"),
    "w2": Place(_MLP + "experts.{expert}.down_proj.weight"),
}
SWITCH: Naming = {  # mlx-lm stacks the experts of each matrix
    **_ATTENTION,
    "router.weight": Place(_SPARSE + "gate.weight"),
    "w1": Stacked(_SPARSE + "switch_mlp.gate_proj.weight"),
    "w3": Stacked(_SPARSE + "switch_mlp.up_proj.weight"),
    "w2": Stacked(_SPARSE + "switch_mlp.down_proj.weight"),
}
MIXTURE = (PER_EXPERT, FUSED, DEFUSED, SWITCH)
