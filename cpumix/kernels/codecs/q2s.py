"""q2s for the kernels: pairs of bits looked up in a code book. See `quant.q2s`."""

from __future__ import annotations

from typing import Any

from cpumix.quant import q2s

from ..compile.jit import inlined, specialised
from ..simd.lanes import either, shift_left
from ..simd.vectors import Address, Builder, Lanes, Value, constant, splat_i32, store_i32
from .codec import load_line
from .row_scaled import RowScaledCodec, look_up


class Q2S(RowScaledCodec):
    """2-bit weights in rows with a scale."""

    name, steps = "q2s", 2
    definition = q2s.FORMAT

    def load(self, b: Builder, tile: Value, step: Value) -> tuple[Value, ...]:  # noqa: D102
        return (load_line(b, tile, step),)

    def group(  # noqa: D102
        self, b: Builder, loaded: tuple[Value, ...], step: Value, group: int, table: Value
    ) -> Value:
        (plane,) = loaded
        return look_up(b, table, b.lshr(plane, constant(2 * group)) if group else plane)

    def pack(self, code: Any) -> Any:  # noqa: D102
        @specialised(inlined, self.name)
        def pack(x: Address, factor: Lanes, shift: Lanes, out: Address) -> None:
            for line in range(2):
                word = splat_i32(0)
                for c in range(16):
                    bits = code(x, 16 * line + c, factor, shift)
                    place = splat_i32(8 * (c % 4) + c // 4 * 2)
                    word = either(word, shift_left(bits, place))
                store_i32(out + 64 * line, word)

        return pack
