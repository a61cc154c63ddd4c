"""Where the tensor that the model file wants lies among a checkpoint's: its name there, and how.

A naming is a table of places by role. A new way to fuse, stack or
turn tensors is one more kind of place here and no branch elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cpumix.config import ModelConfig, Role, TensorSpec

from ..matrix import Matrix
from ..views import HalfSplit, RowRange, Transposed

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """A tensor of its own, as it is."""

    name: str
    """Its name in the checkpoint; {layer} and {expert} stand for their numbers."""

    def source(self, tensor: TensorSpec) -> str:
        """Return the name of the checkpoint's tensor that holds `tensor`."""
        return self.name.format(layer=tensor.layer, expert=tensor.expert)

    def stored_shape(self, shape: Shape, config: ModelConfig) -> Shape:
        """Return the shape that the checkpoint's tensor must have."""
        return shape

    def view(self, matrix: Matrix, tensor: TensorSpec, config: ModelConfig) -> Matrix:
        """Return `tensor` as a part of the checkpoint's tensor."""
        return matrix


@dataclass(frozen=True)
class Pairs(Place):
    """q or k whose rows RoPE turns in pairs (2i, 2i+1), not in halves."""

    def view(self, matrix: Matrix, tensor: TensorSpec, config: ModelConfig) -> Matrix:
        """Return the rows in halves."""
        return HalfSplit(matrix, config.head_dim)


@dataclass(frozen=True)
class Stacked(Place):
    """One expert of (experts, parts * rows, columns), or one of several parts of it."""

    part: int = 0
    parts: int = 1

    def stored_shape(self, shape: Shape, config: ModelConfig) -> Shape:
        """Return the shape of the stack."""
        return (config.num_local_experts, self.parts * shape[0], shape[1])

    def view(self, matrix: Matrix, tensor: TensorSpec, config: ModelConfig) -> Matrix:
        """Return the rows of the expert's part."""
        rows, expert = tensor.shape[0], tensor.expert or 0
        return RowRange(matrix, (expert * self.parts + self.part) * rows, rows)


@dataclass(frozen=True)
class Concatenated(Place):
    """One expert of (experts * rows, columns), each of which may be transposed."""

    transposed: bool = False

    def stored_shape(self, shape: Shape, config: ModelConfig) -> Shape:
        """Return the shape of all experts one below the other."""
        rows, columns = shape[::-1] if self.transposed else shape
        return (config.num_local_experts * rows, columns)

    def view(self, matrix: Matrix, tensor: TensorSpec, config: ModelConfig) -> Matrix:
        """Return the rows of the expert, turned if need be."""
        rows = tensor.shape[1 if self.transposed else 0]
        part = RowRange(matrix, (tensor.expert or 0) * rows, rows)
        return Transposed(part) if self.transposed else part


Naming = Mapping[Role, Place]
FIRST = TensorSpec.of(Role.W1, (), 0, 0)  # by the name of this one namings are told apart


def choose_naming(namings: tuple[Naming, ...], names: Mapping[str, object]) -> Naming:
    """Return the first naming by which the first layer's first expert is there, or just the first.

    With none of them right, the first one's names are those that errors miss.
    """
    return next((n for n in namings if n[Role.W1].source(FIRST) in names), namings[0])
