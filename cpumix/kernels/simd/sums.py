"""Float32 sums of a few rows times two vectors, kept in registers: what long loops add to.

How many rows there are decides how often what is loaded for them all is used, and how many
registers are left; so each kernel asks for its own number.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import types

from .vectors import (
    F32,
    I64,
    VF,
    Builder,
    Stack,
    Value,
    at,
    f32x16,
    instruction,
    multiply_add,
    pointer,
    spread,
)


class Sums(NamedTuple):
    """Instructions on the sums of a number of rows: 2 x rows vectors of 16 float32.

    Slot t of the stack is row t times the first vector, slot rows + t times the second.
    """

    stack: Stack
    """The type."""
    zero: Any
    """() -> sums that are 0."""
    load: Any
    """(address) -> sums, as `store` has stored them: row by row, 2 x 64 bytes each."""
    store: Any
    """(address, sums)."""
    fma: Any
    """(sums, w0, w1, x, stride) -> sums + x[t] * (w0, w1), x[t] the float32 at x + t * stride."""
    rescale: Any
    """(sums, factor, stride) -> sums * factor[t], the float32 at factor + t * stride."""


def row(b: Builder, p: Value, stride: Value, index: int) -> Value:
    """Address of row `index` when rows are `stride` bytes apart."""
    return b.add(p, b.mul(stride, I64(index)))


def read_row(b: Builder, p: Value, stride: Value, index: int) -> Value:
    """Load row `index`'s float32 into every lane."""
    return spread(b, b.load(at(b, row(b, p, stride, index), F32), align=4))


def add_row_products(
    b: Builder, rows: int, total: Value, w0: Value, w1: Value, x: Value, stride: Value
) -> Value:
    """Emit `Sums.fma`: add the products of two vectors with one float32 of each row."""
    values = [read_row(b, x, stride, t) for t in range(rows)]
    for t in range(rows):
        for slot, w in ((t, w0), (rows + t, w1)):
            added = multiply_add(b, values[t], w, b.extract_value(total, slot))
            total = b.insert_value(total, added, slot)
    return total


@lru_cache
def sums_of(rows: int) -> Sums:
    """Make the instructions for so many rows."""
    sums = Stack(f32x16, 2 * rows)
    places = [(t, side, side * rows + t) for t in range(rows) for side in (0, 1)]

    @instruction(sums)
    def no_sums(b: Builder) -> Value:
        """Return sums that are zero."""
        return ir.Constant(sums.llvm, None)

    @instruction(sums, pointer)
    def load_sums(b: Builder, p: Value) -> Value:
        """Load the sums, row by row, 2 x 64 bytes each."""
        out = ir.Constant(sums.llvm, ir.Undefined)
        for t, side, slot in places:
            value = b.load(at(b, b.add(p, I64(64 * (2 * t + side))), VF), align=4)
            out = b.insert_value(out, value, slot)
        return out

    @instruction(types.void, pointer, sums)
    def store_sums(b: Builder, p: Value, total: Value) -> None:
        """Store what `load_sums` loads."""
        for t, side, slot in places:
            place = at(b, b.add(p, I64(64 * (2 * t + side))), VF)
            b.store(b.extract_value(total, slot), place, align=4)

    @instruction(sums, sums, f32x16, f32x16, pointer, types.int64)
    def fma_rows(b: Builder, total: Value, w0: Value, w1: Value, x: Value, stride: Value) -> Value:
        """Add each row's float32 at x, `stride` bytes apart, x both vectors."""
        return add_row_products(b, rows, total, w0, w1, x, stride)

    @instruction(sums, sums, pointer, types.int64)
    def rescale_rows(b: Builder, total: Value, factor: Value, stride: Value) -> Value:
        """Multiply each row's sums by its float32 factor."""
        values = [read_row(b, factor, stride, t) for t in range(rows)]
        for t, _, slot in places:
            total = b.insert_value(total, b.fmul(b.extract_value(total, slot), values[t]), slot)
        return total

    return Sums(sums, no_sums, load_sums, store_sums, fma_rows, rescale_rows)
