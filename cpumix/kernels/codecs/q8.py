"""q8 for the kernels: bytes as stored, one float16 scale a row. See `quant.q8`."""

from __future__ import annotations

import numpy as np

from cpumix.quant import q8

from ..compile.jit import kernel
from ..simd.lanes import (
    absolute,
    add_i32,
    either,
    mul,
    rint,
    shift_left,
    to_i32,
    where_greater,
)
from ..simd.level import LEVEL
from ..simd.vectors import (
    I64,
    VF,
    VH,
    Address,
    Builder,
    Lanes,
    Value,
    load_at,
    load_f32,
    splat,
    splat_i32,
    store_f16,
    store_i32,
)
from .codec import IntegerCodec, load_line
from .encoding import float16_scales, inverse, magnitudes

SCALES = q8.CODE_BYTES  # where a tile's scales are


@kernel
def code(x: Lanes, factor: Lanes) -> Lanes:
    """Return the stored code, 1..255, of 16 weights."""
    limit = splat(np.float32(127))
    rounded = rint(mul(x, factor))
    rounded = where_greater(rounded, limit, limit, rounded)
    rounded = where_greater(splat(np.float32(-127)), rounded, splat(np.float32(-127)), rounded)
    return add_i32(to_i32(rounded), splat_i32(128))


@kernel
def find_scale(x: Address) -> Lanes:
    """Return the scales of a transposed block, before they are rounded to float16."""
    return mul(absolute(magnitudes(x)), splat(np.float32(1 / 127)))


@kernel
def encode(x: Address, out: Address) -> None:
    """Encode a transposed block, (32 columns, 16 rows) f32 at x, as one tile."""
    store_f16(out + SCALES, find_scale(x))
    factor = inverse(out + SCALES)
    for g in range(8):
        word = splat_i32(0)
        for c in range(4):
            stored = code(load_f32(x + 256 * g + 64 * c), factor)
            word = either(word, shift_left(stored, splat_i32(8 * c)))
        store_i32(out + 64 * g, word)


class Q8(IntegerCodec):
    """8-bit weights."""

    name, tile_bytes, steps = "q8", q8.TILE_BYTES, 8
    encode, choose = staticmethod(encode), float16_scales("q8", find_scale)

    def load(self, b: Builder, tile: Value, step: Value) -> tuple[Value, ...]:  # noqa: D102
        return (load_line(b, tile, step),)

    def group(  # noqa: D102
        self, b: Builder, loaded: tuple[Value, ...], step: Value, group: int, table: Value
    ) -> Value:
        return LEVEL.weights(b, *loaded)

    def scales(self, b: Builder, tile: Value) -> Value:  # noqa: D102
        return b.fpext(load_at(b, b.add(tile, I64(SCALES)), VH), VF)
