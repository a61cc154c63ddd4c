"""The names that llama.cpp gives the tensors of a model, by its name for the architecture.

In "llama", which is Mixtral and Mistral too, RoPE turns pairs of rows of q and k; in the others
halves, as in transformers.
"""

from __future__ import annotations

from cpumix.config import ModelConfig, Role

from .places import Naming, Pairs, Place, Stacked

_LAYER = "blk.{layer}."


def namings(config: ModelConfig) -> tuple[Naming, ...]:
    """Return the namings that occur for a model, the likeliest first."""
    shared = _shared(config.family.gguf)
    return tuple(shared | inner for inner in (_MIXTURE if config.is_moe else _DENSE))


def _shared(architecture: str) -> dict[Role, Place]:
    turned = Pairs if architecture == "llama" else Place
    return {
        Role.EMBEDDING: Place("token_embd.weight"),
        Role.OUTPUT_NORM: Place("output_norm.weight"),
        Role.OUTPUT: Place("output.weight"),
        Role.ATTN_NORM: Place(_LAYER + "attn_norm.weight"),
        Role.WQ: turned(_LAYER + "attn_q.weight"),
        Role.WK: turned(_LAYER + "attn_k.weight"),
        Role.WV: Place(_LAYER + "attn_v.weight"),
        Role.WO: Place(_LAYER + "attn_output.weight"),
        Role.BQ: turned(_LAYER + "attn_q.bias"),
        Role.BK: turned(_LAYER + "attn_k.bias"),
        Role.BV: Place(_LAYER + "attn_v.bias"),
        Role.BO: Place(_LAYER + "attn_output.bias"),
        Role.Q_NORM: Place(_LAYER + "attn_q_norm.weight"),
        Role.K_NORM: Place(_LAYER + "attn_k_norm.weight"),
        Role.FFN_NORM: Place(_LAYER + "ffn_norm.weight"),
        Role.ROUTER: Place(_LAYER + "ffn_gate_inp.weight"),
    }


_Inner = dict[Role, Place]
_DENSE: tuple[_Inner, ...] = (
    {
        Role.W1: Place(_LAYER + "ffn_gate.weight"),
        Role.W3: Place(_LAYER + "ffn_up.weight"),
        Role.W2: Place(_LAYER + "ffn_down.weight"),
    },
)
_MIXTURE: tuple[_Inner, ...] = (
    {  # one tensor for all experts
        Role.W1: Stacked(_LAYER + "ffn_gate_exps.weight"),
        Role.W3: Stacked(_LAYER + "ffn_up_exps.weight"),
        Role.W2: Stacked(_LAYER + "ffn_down_exps.weight"),
    },
    {  # the gate above the up projection
        Role.W1: Stacked(_LAYER + "ffn_gate_up_exps.weight", part=0, parts=2),
        Role.W3: Stacked(_LAYER + "ffn_gate_up_exps.weight", part=1, parts=2),
        Role.W2: Stacked(_LAYER + "ffn_down_exps.weight"),
    },
    {  # before April 2024
        Role.W1: Place(_LAYER + "ffn_gate.{expert}.weight"),
        Role.W3: Place(_LAYER + "ffn_up.{expert}.weight"),
        Role.W2: Place(_LAYER + "ffn_down.{expert}.weight"),
    },
)
