"""bf16 for the kernels: widened by a shift, times float32 activations. See `quant.bf16`."""

from __future__ import annotations

from typing import Any

from numba.core import types

from cpumix.quant import bf16
from cpumix.quant.tiles import BLOCK

from ..compile.jit import inlined, kernel, specialised
from ..simd.lanes import add_i32, as_i32, either, shift_left, shift_right
from ..simd.sums import add_row_products, sums_of
from ..simd.vectors import (
    I64,
    VF,
    Address,
    Builder,
    Lanes,
    Value,
    constant,
    instruction,
    load_f32,
    pointer,
    splat_i32,
    store_at,
    store_i32,
)
from .codec import Codec, load_line


@kernel
def upper_half(x: Lanes) -> Lanes:
    """Return 16 float32 as bfloat16, ties to even, in the lower half of each lane."""
    bits = as_i32(x)
    odd = shift_right(shift_left(bits, splat_i32(15)), splat_i32(31))
    return shift_right(add_i32(bits, add_i32(odd, splat_i32(0x7FFF))), splat_i32(16))


@kernel
def encode(x: Address, out: Address) -> None:
    """Encode a transposed block, (32 columns, 16 rows) f32 at x, as one tile."""
    for g in range(16):
        low, high = upper_half(load_f32(x + 128 * g)), upper_half(load_f32(x + 128 * g + 64))
        store_i32(out + 64 * g, either(low, shift_left(high, splat_i32(16))))


class Bf16(Codec):
    """bfloat16 weights; columns are added one after the other, in float32."""

    name, tile_bytes, steps = "bf16", bf16.TILE_BYTES, 16
    x_bytes, takes_codes = 4 * BLOCK, False
    encode = staticmethod(encode)

    @property
    def decode(self) -> Any:  # noqa: D102
        steps = self.steps

        @instruction(types.void, pointer, pointer, types.int64)
        def decode_step(b: Builder, tile: Value, place: Value, step: Value) -> None:
            """Widen two columns."""
            pairs, place = load_line(b, tile, step), b.add(place, b.mul(step, I64(128)))
            for half in (0, 1):
                store_at(b, b.add(place, I64(64 * half)), widen(b, pairs, half))

        @inlined
        def decode(tile: Address, table: Lanes, rows: Lanes, place: Address) -> None:
            for step in range(steps):
                decode_step(tile, place, step)

        return decode

    def add_block(self, tokens: int) -> Any:  # noqa: D102
        sums, steps = sums_of(tokens).stack, self.steps

        @instruction(sums, sums, pointer, pointer, pointer, types.int64, types.int64)
        def add_step(
            b: Builder, total: Value, w0: Value, w1: Value, x: Value, *rest: Value
        ) -> Value:
            """Add two columns, one after the other."""
            x_stride, step = rest
            pairs = [load_line(b, w, step) for w in (w0, w1)]
            x = b.add(x, b.mul(step, I64(8)))
            for half in (0, 1):
                first, second = (widen(b, p, half) for p in pairs)
                place = b.add(x, I64(4 * half))
                total = add_row_products(b, tokens, total, first, second, place, x_stride)
            return total

        @specialised(inlined, f"bf16_{tokens}")
        def add_block(
            total: Lanes, w0: Address, w1: Address, table: Lanes, x: Address, x_stride: int,
            header: Address,
        ) -> Lanes:  # fmt: skip
            for step in range(steps):
                total = add_step(total, w0, w1, x, x_stride, step)
            return total

        return add_block


def widen(b: Builder, pairs: Value, half: int) -> Value:
    """Emit the lower or upper bfloat16 of every lane as float32."""
    bits = b.and_(pairs, constant(0xFFFF0000)) if half else b.shl(pairs, constant(16))
    return b.bitcast(bits, VF)
