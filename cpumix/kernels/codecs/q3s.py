"""q3s for the kernels: a plane of two bits and one of one, put together. See `quant.q3s`."""

from __future__ import annotations

from typing import Any

from cpumix.quant import q3s

from ..compile.jit import inlined, specialised
from ..simd.lanes import either, shift_left, shift_right
from ..simd.vectors import (
    I32,
    I64,
    Address,
    Builder,
    Lanes,
    Value,
    constant,
    splat_i32,
    spread,
    store_i32,
)
from .codec import load_line
from .row_scaled import RowScaledCodec, look_up

LOW_LINES = 2  # with two bits of each code; a line with the third follows


class Q3S(RowScaledCodec):
    """3-bit weights in rows with a scale."""

    name, steps = "q3s", 2
    definition = q3s.FORMAT

    def load(self, b: Builder, tile: Value, step: Value) -> tuple[Value, ...]:  # noqa: D102
        upper = load_line(b, tile, I64(LOW_LINES))
        place = b.trunc(b.shl(step, I64(2)), I32)  # 4 bits of 8 are a step's
        return load_line(b, tile, step), b.lshr(upper, spread(b, place))

    def group(  # noqa: D102
        self, b: Builder, loaded: tuple[Value, ...], step: Value, group: int, table: Value
    ) -> Value:
        plane, upper = loaded
        low = b.and_(b.lshr(plane, constant(2 * group)), constant(0x03030303))
        bit = b.shl(upper, constant(2 - group)) if group < 2 else b.lshr(upper, constant(group - 2))
        return look_up(b, table, b.or_(low, b.and_(bit, constant(0x04040404))))

    def pack(self, code: Any) -> Any:  # noqa: D102
        @specialised(inlined, self.name)
        def pack(x: Address, factor: Lanes, shift: Lanes, out: Address) -> None:
            upper = splat_i32(0)
            for line in range(LOW_LINES):
                word = splat_i32(0)
                for c in range(16):
                    bits = shift_left(code(x, 16 * line + c, factor, shift), splat_i32(29))
                    low = shift_right(shift_left(bits, splat_i32(1)), splat_i32(30))
                    high = shift_right(bits, splat_i32(31))
                    word = either(word, shift_left(low, splat_i32(8 * (c % 4) + c // 4 * 2)))
                    place = splat_i32(8 * (c % 4) + c // 4 + 4 * line)
                    upper = either(upper, shift_left(high, place))
                store_i32(out + 64 * line, word)
            store_i32(out + 64 * LOW_LINES, upper)

        return pack
