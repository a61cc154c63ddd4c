"""q6 for the kernels: nibbles and two more bits, put together. See `quant.q6`."""

from __future__ import annotations

import numpy as np

from cpumix.quant import q6

from ..compile.jit import kernel
from ..simd.lanes import (
    add_i32,
    either,
    mul,
    rint,
    shift_left,
    shift_right,
    to_i32,
    where_greater,
)
from ..simd.level import LEVEL
from ..simd.vectors import (
    I32,
    I64,
    VF,
    VH,
    Address,
    Builder,
    Lanes,
    Value,
    constant,
    load_at,
    load_f32,
    splat,
    splat_i32,
    spread,
    store_f16,
    store_i32,
)
from .codec import IntegerCodec, load_line
from .encoding import float16_scales, inverse, scale_search

SCALES = q6.CODE_BYTES  # where a tile's scales are
NIBBLE_LINES = 4


@kernel
def nearest(x: Lanes) -> Lanes:
    """Round 16 weights, divided by their scale, to whole numbers -32..31."""
    whole = rint(x)
    whole = where_greater(whole, splat(np.float32(31)), splat(np.float32(31)), whole)
    return where_greater(splat(np.float32(-32)), whole, splat(np.float32(-32)), whole)


search_scale = scale_search("q6", q6.PEAK_TARGETS, nearest)


@kernel
def code(x: Address, column: int, factor: Lanes) -> Lanes:
    """Return the stored codes, 0..63, of one column of a transposed block."""
    return add_i32(to_i32(nearest(mul(load_f32(x + 64 * column), factor))), splat_i32(32))


@kernel
def encode(x: Address, out: Address) -> None:
    """Encode a transposed block, (32 columns, 16 rows) f32 at x, as one tile."""
    store_f16(out + SCALES, search_scale(x))
    factor = inverse(out + SCALES)
    for line in range(NIBBLE_LINES):
        word = splat_i32(0)
        for c in range(8):
            low = shift_left(code(x, 8 * line + c, factor), splat_i32(28))
            word = either(word, shift_right(low, splat_i32(28 - 8 * (c % 4) - c // 4 * 4)))
        store_i32(out + 64 * line, word)
    for line in range(2):
        word = splat_i32(0)
        for c in range(16):
            upper = shift_right(code(x, 16 * line + c, factor), splat_i32(4))
            word = either(word, shift_left(upper, splat_i32(8 * (c % 4) + c // 4 * 2)))
        store_i32(out + 64 * (NIBBLE_LINES + line), word)


class Q6(IntegerCodec):
    """6-bit weights."""

    name, tile_bytes, steps = "q6", q6.TILE_BYTES, 4
    encode, choose = staticmethod(encode), float16_scales("q6", search_scale)

    def load(self, b: Builder, tile: Value, step: Value) -> tuple[Value, ...]:  # noqa: D102
        plane = load_line(b, tile, b.add(b.lshr(step, I64(1)), I64(NIBBLE_LINES)))
        place = b.trunc(b.shl(b.and_(step, I64(1)), I64(2)), I32)  # 4 bits of 8 are a step's
        return load_line(b, tile, step), b.lshr(plane, spread(b, place))

    def group(  # noqa: D102
        self, b: Builder, loaded: tuple[Value, ...], step: Value, group: int, table: Value
    ) -> Value:
        nibbles, plane = loaded
        low = b.and_(b.lshr(nibbles, constant(4 * group)), constant(0x0F0F0F0F))
        upper = b.and_(b.shl(plane, constant(4 - 2 * group)), constant(0x30303030))
        return LEVEL.weights(b, b.add(b.or_(low, upper), constant(0x60606060)))  # code - 32 + 128

    def scales(self, b: Builder, tile: Value) -> Value:  # noqa: D102
        return b.fpext(load_at(b, b.add(tile, I64(SCALES)), VH), VF)
