"""What the loops of the products go over: two rows of tiles, and rows of activations."""

from __future__ import annotations

from typing import NamedTuple

from cpumix.quant.tiles import BLOCK

from .compile.jit import inlined
from .rows import INPUT_HEADER
from .simd.vectors import Address


class TilePair(NamedTuple):
    """Some blocks of two tiles of weights, and the code book of their matrix."""

    w0: Address
    w1: Address
    blocks: int
    book: Address


class InputRows(NamedTuple):
    """Rows of activations: codes, or float32 where weights are bfloat16."""

    x: Address
    x_stride: int
    """Bytes from row to row."""
    header: Address
    """Of the first row's first block; from row to row half as far as codes."""


@inlined
def rows_from(inputs: InputRows, row: int) -> InputRows:
    """Return the rows from `row` on."""
    x, x_stride, header = inputs
    return InputRows(
        x + row * x_stride, x_stride, header + row * (x_stride // BLOCK * INPUT_HEADER)
    )
