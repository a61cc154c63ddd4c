"""The precisions that a user can choose, and the format that each gives to each tensor.

Experts are 96.6 % of Mixtral 8x7B and bear 4 bits well; attention, embeddings and the head do not,
and cost little, so int4 keeps them at 8 bits. Norms and routers always stay float32: a wrong expert
is worse than a noisy one. So does the head of a classifier, which is small.

Between int4 and int8 lie the mixes: "mix-15" is int4 with the experts of 15 layers at 8 bits, those
layers where that helps most (see `sensitivity`). So memory can be filled to the last layer.

A format ("q4", in `FORMATS`) says what the bytes of one matrix mean; a precision ("int4") says
which format each tensor of a model takes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cpumix.config import BIASES, NORMS, Role, TensorSpec
from cpumix.errors import ConfigError

from . import FLOAT32
from .sensitivity import most_sensitive

UNQUANTIZED = (*NORMS, *BIASES, Role.ROUTER, Role.SCORE)
INT8_EXPERTS = "q8"  # the format of the experts in the int8 layers of a mix

_MIX = re.compile(r"mix-([1-9][0-9]{0,3})")


@dataclass(frozen=True)
class Precision:
    """Which format the experts take and which the dense part."""

    name: str
    experts: str
    dense: str
    int8_layers: tuple[int, ...] = ()
    """Layers whose experts take `INT8_EXPERTS` instead, in ascending order; of a mix only."""

    def format(self, spec: TensorSpec) -> str:
        """Return the format of a tensor, or of a part of an expert."""
        if spec.role in UNQUANTIZED:
            return FLOAT32
        if spec.expert is None:
            return self.dense
        return INT8_EXPERTS if spec.layer in self.int8_layers else self.experts


PRECISIONS = {
    p.name: p
    for p in (
        Precision("bf16", experts="bf16", dense="bf16"),
        Precision("int8", experts="q8", dense="q8"),
        Precision("int4", experts="q4", dense="q8"),
    )
}
# What weights would take as they are computed with. Nobody stores them so: for comparison only.
REFERENCE = Precision("float32", experts=FLOAT32, dense=FLOAT32)


def find_precision(name: str, layers: int) -> Precision:
    """Return the precision with this name, for a model of so many layers.

    Raises ConfigError for a name that is none.
    """
    if name in PRECISIONS:
        return PRECISIONS[name]
    if found := _MIX.fullmatch(name):
        count = int(found[1])
        if count < layers:
            return mix(most_sensitive(layers)[:count])
    mixes = f' or "mix-1" to "mix-{layers - 1}" (layers whose experts take 8 bits)'
    known = ", ".join(PRECISIONS) + (mixes if layers > 1 else "")
    raise ConfigError(f'precision: expected one of {known}, found "{name}".')


def mix(int8_layers: Sequence[int]) -> Precision:
    """Return int4 with the experts of these layers at 8 bits."""
    base = PRECISIONS["int4"]
    return Precision(
        f"mix-{len(int8_layers)}", base.experts, base.dense, tuple(sorted(int8_layers))
    )


def is_mix(name: str) -> bool:
    """Tell whether a precision's name is that of a mix."""
    return _MIX.fullmatch(name) is not None
