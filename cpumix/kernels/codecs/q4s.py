"""q4s for the kernels: nibbles looked up in a code book. See `quant.q4s`."""

from __future__ import annotations

from typing import Any

from cpumix.quant import q4s

from ..compile.jit import inlined, specialised
from ..simd.lanes import either, shift_left
from ..simd.vectors import Address, Builder, Lanes, Value, constant, splat_i32, store_i32
from .codec import load_line
from .row_scaled import RowScaledCodec, look_up


class Q4S(RowScaledCodec):
    """4-bit weights in rows with a scale."""

    name, steps = "q4s", 4
    definition = q4s.FORMAT

    def load(self, b: Builder, tile: Value, step: Value) -> tuple[Value, ...]:  # noqa: D102
        return (load_line(b, tile, step),)

    def group(  # noqa: D102
        self, b: Builder, loaded: tuple[Value, ...], step: Value, group: int, table: Value
    ) -> Value:
        (packed,) = loaded
        return look_up(b, table, b.lshr(packed, constant(4)) if group else packed)

    def pack(self, code: Any) -> Any:  # noqa: D102
        @specialised(inlined, self.name)
        def pack(x: Address, factor: Lanes, shift: Lanes, out: Address) -> None:
            for g in range(4):
                word = splat_i32(0)
                for c in range(4):
                    low = code(x, 8 * g + c, factor, shift)
                    high = shift_left(code(x, 8 * g + 4 + c, factor, shift), splat_i32(4))
                    word = either(word, shift_left(either(low, high), splat_i32(8 * c)))
                store_i32(out + 64 * g, word)

        return pack
