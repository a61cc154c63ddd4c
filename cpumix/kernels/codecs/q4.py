"""q4 for the kernels: nibbles looked up in the tensor's code book. See `quant.q4`."""

from __future__ import annotations

from cpumix.quant import q4

from ..compile.jit import kernel
from ..simd.lanes import (
    either,
    mul,
    shift_left,
    staircase,
)
from ..simd.level import LEVEL
from ..simd.vectors import (
    I64,
    VF,
    VH,
    Address,
    Builder,
    Value,
    constant,
    f32x16,
    i32x16,
    load_at,
    load_f32,
    splat_i32,
    store_f16,
    store_i32,
)
from .codec import IntegerCodec, load_book, load_line
from .encoding import float16_scales, inverse, scale_search

SCALES = q4.CODE_BYTES  # where a tile's scales are
nearest_value = staircase(f32x16, q4.MIDPOINTS.tolist(), [float(v) for v in q4.CODE_BOOK])
nearest_index = staircase(i32x16, q4.MIDPOINTS.tolist(), list(range(16)))


search_scale = scale_search("q4", q4.PEAK_TARGETS, nearest_value)


@kernel
def encode(x: Address, out: Address) -> None:
    """Encode a transposed block, (32 columns, 16 rows) f32 at x, as one tile."""
    store_f16(out + SCALES, search_scale(x))
    factor = inverse(out + SCALES)
    for g in range(4):
        word = splat_i32(0)
        for c in range(4):
            low = nearest_index(mul(load_f32(x + 512 * g + 64 * c), factor))
            high = nearest_index(mul(load_f32(x + 512 * g + 256 + 64 * c), factor))
            nibbles = either(low, shift_left(high, splat_i32(4)))
            word = either(word, shift_left(nibbles, splat_i32(8 * c)))
        store_i32(out + 64 * g, word)


class Q4(IntegerCodec):
    """4-bit weights with a code book."""

    name, tile_bytes, steps = "q4", q4.TILE_BYTES, 4
    encode, choose = staticmethod(encode), float16_scales("q4", search_scale)

    def table(self, b: Builder, address: Value) -> Value:  # noqa: D102
        return load_book(b, address)

    def load(self, b: Builder, tile: Value, step: Value) -> tuple[Value, ...]:  # noqa: D102
        return (load_line(b, tile, step),)

    def group(  # noqa: D102
        self, b: Builder, loaded: tuple[Value, ...], step: Value, group: int, table: Value
    ) -> Value:
        (packed,) = loaded
        if group:
            packed = b.lshr(packed, constant(4))
        return LEVEL.lookup(b, table, b.and_(packed, constant(0x0F0F0F0F)))

    def scales(self, b: Builder, tile: Value) -> Value:  # noqa: D102
        return b.fpext(load_at(b, b.add(tile, I64(SCALES)), VH), VF)
