"""The precisions that a user can choose, and the format that each gives to each tensor.

Experts are 96.6 % of Mixtral 8x7B and bear 4 bits well; attention, embeddings and the head do not,
and cost little, so int4 keeps them at 8 bits. Norms and routers always stay float32: a wrong expert
is worse than a noisy one.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import FLOAT32

UNQUANTIZED_SUFFIXES = ("norm.weight", "router.weight")


@dataclass(frozen=True)
class Precision:
    """Which format the experts take and which the dense part."""

    name: str
    experts: str
    dense: str


PRECISIONS = {
    p.name: p
    for p in (
        Precision("bf16", experts="bf16", dense="bf16"),
        Precision("int8", experts="q8", dense="q8"),
        Precision("int4", experts="q4", dense="q8"),
    )
}


def tensor_format(precision: str, name: str) -> str:
    """Return the format of the tensor with this canonical name ("blk.0.expert.3.w1", "blk.0.router.weight", ...)."""
    if name.endswith(UNQUANTIZED_SUFFIXES):
        return FLOAT32
    chosen = PRECISIONS[precision]
    return chosen.experts if ".expert." in name else chosen.dense
