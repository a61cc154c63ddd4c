"""The precisions that a model can have: the format that each gives to each tensor.

A format ("q4s", in `FORMATS`) says what the bytes of one matrix mean; a precision ("int4") says
which format each tensor of a model takes. Five are levels, which a user can name: all experts take
one format there, and all other matrices one. Norms, biases, routers and the heads of classifiers
always stay float32: a wrong expert is worse than a noisy one.

Experts are 96.6 % of Mixtral 8x7B and bear few bits well. Attention, embeddings and the head do
not, and are a fifth of what a token reads: below int8 they take 6 bits, which costs a sixth of what
4-bit experts do and makes a token 5 % faster.

Between the levels lie the mixes, "mix-B" with B bits for a weight on average: `memory.mixing` gives
each group of matrices what loses least within them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from cpumix.config import BIASES, NORMS, Role, TensorSpec
from cpumix.errors import ConfigError

from . import FLOAT32

UNQUANTIZED = (*NORMS, *BIASES, Role.ROUTER, Role.SCORE)
LOW_COPIES = "q2s"  # the format of low copies
BOTH = "+"  # between the formats of an expert's parts, where they differ


class LayerFormats(NamedTuple):
    """The formats of a layer's matrices."""

    attention: str
    gate_up: str
    """Of w1 and w3."""
    down: str
    """Of w2."""

    @property
    def expert(self) -> str:
        """The format of a whole expert: one name, or those of its two parts."""
        return self.gate_up if self.gate_up == self.down else f"{self.gate_up}{BOTH}{self.down}"


def parts_of(expert_format: str) -> tuple[str, str, str]:
    """Return the formats of w1, w3 and w2, of that of a whole expert."""
    gate_up, _, down = expert_format.partition(BOTH)
    return gate_up, gate_up, down or gate_up


@dataclass(frozen=True)
class Precision:
    """Which format each tensor takes."""

    name: str
    embedding: str
    head: str
    layers: tuple[LayerFormats, ...]
    """Of each layer; one for all if they are alike."""
    low: str | None = None
    """Of the low copies of all experts; None without them."""

    @classmethod
    def uniform(cls, name: str, *, experts: str, dense: str) -> Precision:
        """Return a precision that gives experts one format, and all other matrices one."""
        return cls(name, dense, dense, (LayerFormats(dense, experts, experts),))

    def layer(self, index: int) -> LayerFormats:
        """Return the formats of one layer."""
        return self.layers[index if len(self.layers) > 1 else 0]

    def format(self, spec: TensorSpec) -> str:
        """Return the format of a tensor, of a part of an expert, or of a whole expert."""
        if spec.role in UNQUANTIZED:
            return FLOAT32
        if spec.layer is None:
            return self.embedding if spec.role is Role.EMBEDDING else self.head
        if spec.role is Role.LOW_COPY:
            assert self.low is not None
            return self.low
        formats = self.layer(spec.layer)
        if spec.role is Role.EXPERT:
            return formats.expert
        if spec.role is Role.W2:
            return formats.down
        return formats.gate_up if spec.role in (Role.W1, Role.W3) else formats.attention

    @property
    def formats(self) -> set[str]:
        """Every format that a matrix takes."""
        low = {self.low} if self.low else set()
        layers = {name for layer in self.layers for name in layer}
        return {self.embedding, self.head, *layers, *low}

    def describe(self) -> str:
        """Say which share of the layers' experts takes which format, and what the rest takes."""
        experts = [name for layer in self.layers for name in (layer.gate_up, layer.down)]
        rest = {self.embedding, self.head, *(layer.attention for layer in self.layers)}
        told = ", ".join(
            f"{name} {100 * experts.count(name) / len(experts):.0f} %" for name in _once(experts)
        )
        if len(set(experts)) == 1:
            told = experts[0]
        copies = f", low copies {self.low}" if self.low else ""
        return f"experts {told}{copies}; the rest {', '.join(_once(rest))}"


def _once(names: Iterable[str]) -> list[str]:
    """Return each name once, that of most bits first."""
    from . import FORMATS

    bits = {name: FORMATS[name].bits_per_weight if name in FORMATS else 32.0 for name in names}
    return sorted(bits, key=lambda name: -bits[name])


PRECISIONS = {
    p.name: p
    for p in (
        Precision.uniform("bf16", experts="bf16", dense="bf16"),
        Precision.uniform("int8", experts="q8", dense="q8"),
        Precision.uniform("int4", experts="q4s", dense="q6"),
        Precision.uniform("int3", experts="q3s", dense="q6"),
        Precision.uniform("int2", experts="q2s", dense="q6"),
    )
}
# What weights would take as they are computed with. Nobody stores them so: for comparison only.
REFERENCE = Precision.uniform("float32", experts=FLOAT32, dense=FLOAT32)
# For checkpoints whose experts are up to 16 values times a scale: q4 keeps these numbers.
CODED = Precision.uniform("int4", experts="q4", dense="q8")


def find_level(name: str) -> Precision:
    """Return the level with this name; ConfigError if there is none."""
    if name not in PRECISIONS:
        raise ConfigError(f'precision: expected one of {", ".join(PRECISIONS)}, found "{name}".')
    return PRECISIONS[name]
