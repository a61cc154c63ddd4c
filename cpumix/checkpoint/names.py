"""What Hugging Face checkpoints call the tensors that the model file knows by other names.

A naming maps what follows "blk.L." in a canonical name to what follows "model.layers.L." in the
checkpoint. Where several canonical tensors have one name there, they are fused: one after the
other in the order of `ModelConfig.tensor_shapes`, which is that of transformers' MixtralExperts,
where each expert has its gate (w1) above its up projection (w3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Naming = Mapping[str, str]

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
TOP = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": "model.norm.weight",
    "output.weight": HEAD,
}
_ATTENTION = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
DENSE: Naming = _ATTENTION | {
    "w1": "mlp.gate_proj.weight",
    "w3": "mlp.up_proj.weight",
    "w2": "mlp.down_proj.weight",
}
PER_EXPERT: Naming = _ATTENTION | {  # transformers 4; version 5 still saves it
    "router.weight": "block_sparse_moe.gate.weight",
    "w1": "block_sparse_moe.experts.{expert}.w1.weight",
    "w3": "block_sparse_moe.experts.{expert}.w3.weight",
    "w2": "block_sparse_moe.experts.{expert}.w2.weight",
}
FUSED: Naming = _ATTENTION | {  # transformers 5, as its modules have it
    "router.weight": "mlp.gate.weight",
    "w1": "mlp.experts.gate_up_proj",  # (experts, 2 * intermediate, hidden)
    "w3": "mlp.experts.gate_up_proj",
    "w2": "mlp.experts.down_proj",  # (experts, hidden, intermediate)
}
_STACKED = (".mlp.experts.gate_up_proj", ".mlp.experts.down_proj")
_COMPUTED = ".rotary_emb.inv_freq"  # a buffer that follows from the config


def source_name(canonical: str, naming: Naming) -> str:
    """Return a tensor's name in a checkpoint."""
    if canonical in TOP:
        return TOP[canonical]
    _, layer, kind = canonical.split(".", 2)
    _, expert, part = kind.split(".") if kind.startswith("expert.") else ("", "", kind)
    return f"model.layers.{layer}.{naming[part].format(expert=expert)}"


def choose_naming(names: Iterable[str], architecture: str) -> Naming:
    """Return the naming that a checkpoint with these tensors follows."""
    if architecture != "MixtralForCausalLM":
        return DENSE
    return FUSED if any(is_stacked(name) for name in names) else PER_EXPERT


def is_stacked(name: str) -> bool:
    """Whether a tensor has a first dimension for the experts."""
    return name.endswith(_STACKED)


def is_idle(name: str, naming: Naming, is_moe: bool) -> bool:
    """Whether the result does not depend on a tensor that the model file has no name for.

    That is a buffer, or the router over one single expert.
    """
    router = naming.get("router.weight", "")
    return name.endswith(_COMPUTED) or bool(router and not is_moe and name.endswith("." + router))
