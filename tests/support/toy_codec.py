"""2-bit weights for the kernels: what would stand in cpumix/kernels/codecs/t2.py."""

from __future__ import annotations

from toy_format import CODE_BYTES, LINES, TILE_BYTES

from cpumix.kernels.codecs.codec import IntegerCodec, load_line
from cpumix.kernels.codecs.encoding import inverse, magnitudes
from cpumix.kernels.compile.jit import kernel
from cpumix.kernels.simd.lanes import absolute, add_i32, either, mul, rint, shift_left, to_i32
from cpumix.kernels.simd.level import LEVEL
from cpumix.kernels.simd.vectors import (
    I64,
    VF,
    VH,
    Address,
    Builder,
    Value,
    constant,
    load_at,
    load_f32,
    splat_i32,
    store_f16,
    store_i32,
)


@kernel
def encode(x: Address, out: Address) -> None:
    """Encode a transposed block, (32 columns, 16 rows) f32 at x, as one tile."""
    store_f16(out + CODE_BYTES, absolute(magnitudes(x)))
    factor = inverse(out + CODE_BYTES)
    for line in range(LINES):
        word = splat_i32(0)
        for g in range(4):
            for c in range(4):
                v = load_f32(x + 1024 * line + 256 * g + 64 * c)
                code = add_i32(to_i32(rint(mul(v, factor))), splat_i32(1))
                word = either(word, shift_left(code, splat_i32(2 * g + 8 * c)))
        store_i32(out + 64 * line, word)


class T2(IntegerCodec):
    """Ternary weights."""

    name, tile_bytes, lines, steps = "t2", TILE_BYTES, 1, LINES
    encode = staticmethod(encode)

    def load(self, b: Builder, tile: Value, step: Value) -> tuple[Value, ...]:
        """Load a line."""
        return (load_line(b, tile, step),)

    def group(
        self, b: Builder, loaded: tuple[Value, ...], step: Value, group: int, table: Value
    ) -> Value:
        """Take two bits of each byte, 0 to 2, and make bytes that are 128 more than the weight."""
        codes = b.and_(b.lshr(loaded[0], constant(2 * group)), constant(0x03030303))
        return LEVEL.weights(b, b.add(codes, constant(0x7F7F7F7F)))

    def scales(self, b: Builder, tile: Value) -> Value:
        """Widen the 16 scales at the end of the tile."""
        return b.fpext(load_at(b, b.add(tile, I64(CODE_BYTES)), VH), VF)
