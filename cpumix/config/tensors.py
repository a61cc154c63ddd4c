"""The tensors of a model: what each is for, and what it is called in the model file.

Whoever needs to know what a tensor is asks its role, layer and expert; names are only ever made
from these, never taken apart.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Role(Enum):
    """What a tensor is for; the value is its name, or the last part of it inside a layer."""

    EMBEDDING = "token_embd.weight"
    ATTN_NORM = "attn_norm.weight"
    WQ = "attn_q.weight"
    WK = "attn_k.weight"
    WV = "attn_v.weight"
    WO = "attn_output.weight"
    BQ = "attn_q.bias"
    BK = "attn_k.bias"
    BV = "attn_v.bias"
    BO = "attn_output.bias"
    Q_NORM = "attn_q_norm.weight"
    K_NORM = "attn_k_norm.weight"
    FFN_NORM = "ffn_norm.weight"
    ROUTER = "router.weight"
    OUTPUT_NORM = "output_norm.weight"
    OUTPUT = "output.weight"
    SCORE = "score.weight"
    """The head of a classifier."""
    W1 = "w1"
    W3 = "w3"
    W2 = "w2"
    EXPERT = "expert"
    """All three of an expert's matrices, as the model file stores them."""
    LOW_COPY = "low"
    """The same in few bits, beside it: what tokens go through that need this expert little."""


WHOLE_EXPERTS = (Role.EXPERT, Role.LOW_COPY)
ATTENTION_MATRICES = (Role.WQ, Role.WK, Role.WV, Role.WO)
EXPERT_PARTS = (Role.W1, Role.W3, Role.W2)  # in the order of the model file
NORMS = (Role.ATTN_NORM, Role.Q_NORM, Role.K_NORM, Role.FFN_NORM, Role.OUTPUT_NORM)
BIASES = (Role.BQ, Role.BK, Role.BV, Role.BO)


def tensor_name(role: Role, layer: int | None = None, expert: int | None = None) -> str:
    """Return the canonical name, such as "blk.0.attn_q.weight" or "blk.0.expert.3.w1"."""
    if layer is None:
        return role.value
    if expert is None:
        return f"blk.{layer}.{role.value}"
    if role is Role.LOW_COPY:
        return f"blk.{layer}.low.{expert}"
    whole = f"blk.{layer}.expert.{expert}"
    return whole if role is Role.EXPERT else f"{whole}.{role.value}"


class TensorSpec(NamedTuple):
    """One tensor that a model has."""

    name: str
    shape: tuple[int, ...]
    """(rows, columns), (rows,) of a norm or bias, (3, intermediate, hidden) of a whole expert."""
    role: Role
    layer: int | None = None
    """None outside the layers: embedding, last norm and head."""
    expert: int | None = None
    """None in the dense part."""

    @classmethod
    def of(
        cls,
        role: Role,
        shape: tuple[int, ...],
        layer: int | None = None,
        expert: int | None = None,
    ) -> TensorSpec:
        """Return a tensor under its canonical name."""
        return cls(tensor_name(role, layer, expert), shape, role, layer, expert)
