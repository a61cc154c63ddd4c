"""ARM's NEON: sums of byte products, and look-ups in a 16-byte table, four registers to a vector.

Needs the dot-product extension, which Apple silicon, Graviton since 2, Snapdragon since 845 and
Raspberry Pi since 5 have. `sdot` takes weights and activations as signed bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from .vectors import I8, I32, LANES, VI, VI4, Builder, Value, external

QUARTER = 4
VB16 = ir.VectorType(I8, 4 * QUARTER)


def pick(b: Builder, v: Value, other: Value, lanes: range) -> Value:
    """Return these lanes of two vectors laid end to end."""
    return b.shuffle_vector(v, other, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def by_quarters(emit: Callable[..., Value], b: Builder, *vectors: Value) -> Value:
    """Apply a 128-bit instruction to the four quarters of 512-bit operands."""
    empty = ir.Constant(VI, ir.Undefined)
    quarters = [
        emit(*(pick(b, v, empty, range(first, first + QUARTER)) for v in vectors))
        for first in range(0, LANES, QUARTER)
    ]
    low, high = (pick(b, quarters[i], quarters[i + 1], range(2 * QUARTER)) for i in (0, 2))
    return pick(b, low, high, range(LANES))


def dot4_neon(b: Builder, acc: Value, w: Value, x: Value) -> Value:
    """Sdot, four times 128 bits."""
    sdot = external(b, "llvm.aarch64.neon.sdot.v4i32.v16i8", VI4, [VI4, VB16, VB16])

    def emit(acc: Value, w: Value, x: Value) -> Value:
        return b.call(sdot, [acc, b.bitcast(w, VB16), b.bitcast(x, VB16)])

    return by_quarters(emit, b, acc, w, x)


def lookup_128(b: Builder, table: Value, index: Value) -> Value:
    """Tbl, four times 128 bits."""
    tbl = external(b, "llvm.aarch64.neon.tbl1.v16i8", VB16, [VB16, VB16])

    def emit(table: Value, index: Value) -> Value:
        return b.bitcast(b.call(tbl, [b.bitcast(table, VB16), b.bitcast(index, VB16)]), VI4)

    return by_quarters(emit, b, table, index)
