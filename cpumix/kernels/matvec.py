"""Two tiles of weights times one row: decode, where weights stream from memory through registers.

One lane is one output row of the matrix, and a block of 32 columns is summed exactly in int32
before it is scaled, in the same order as in `panels`: a row alone and in a batch come out the same.
Both tiles' streams are in order, which the processor's own prefetchers follow best undisturbed.
"""

from __future__ import annotations

from typing import Any

from cpumix.quant import bf16, q4, q8
from cpumix.quant.tiles import BLOCK

from .compile.jit import kernel
from .rows import HEADER_BYTES, SCALE, START
from .simd.lanes import fma, high_bf16, high_nibbles, low_bf16, low_nibbles, mul, to_f32
from .simd.level import UNSIGNED, code_book, dot4, lookup, weights
from .simd.vectors import (
    Address,
    broadcast_f32,
    broadcast_i32,
    load_f16,
    load_i32,
    splat,
    splat_i32,
)

Q4_BYTES, Q8_BYTES, BF16_BYTES = q4.TILE_BYTES, q8.TILE_BYTES, bf16.TILE_BYTES


@kernel
def row_q8(w0: Address, w1: Address, blocks: int, x: Address, header: Address) -> Any:
    """Two tiles of 8-bit weights times one row: 16 float32 sums of each."""
    first, second = splat(0.0), splat(0.0)
    for _ in range(blocks):
        acc0 = acc1 = broadcast_i32(header + START) if UNSIGNED else splat_i32(0)
        for g in range(8):
            v = broadcast_i32(x + 4 * g)
            acc0 = dot4(acc0, weights(load_i32(w0 + 64 * g)), v)
            acc1 = dot4(acc1, weights(load_i32(w1 + 64 * g)), v)
        scale = broadcast_f32(header + SCALE)
        first = fma(mul(to_f32(acc0), scale), load_f16(w0 + 512), first)
        second = fma(mul(to_f32(acc1), scale), load_f16(w1 + 512), second)
        w0, w1, x, header = w0 + Q8_BYTES, w1 + Q8_BYTES, x + BLOCK, header + HEADER_BYTES
    return first, second


@kernel
def row_q4(w0: Address, w1: Address, blocks: int, x: Address, header: Address) -> Any:
    """Two tiles of 4-bit weights times one row: 16 float32 sums of each."""
    first, second, table = splat(0.0), splat(0.0), code_book()
    for _ in range(blocks):
        acc0 = acc1 = broadcast_i32(header + START) if UNSIGNED else splat_i32(0)
        for g in range(4):
            p0, p1 = load_i32(w0 + 64 * g), load_i32(w1 + 64 * g)
            v = broadcast_i32(x + 8 * g)
            acc0 = dot4(acc0, lookup(table, low_nibbles(p0)), v)
            acc1 = dot4(acc1, lookup(table, low_nibbles(p1)), v)
            v = broadcast_i32(x + 8 * g + 4)
            acc0 = dot4(acc0, lookup(table, high_nibbles(p0)), v)
            acc1 = dot4(acc1, lookup(table, high_nibbles(p1)), v)
        scale = broadcast_f32(header + SCALE)
        first = fma(mul(to_f32(acc0), scale), load_f16(w0 + 256), first)
        second = fma(mul(to_f32(acc1), scale), load_f16(w1 + 256), second)
        w0, w1, x, header = w0 + Q4_BYTES, w1 + Q4_BYTES, x + BLOCK, header + HEADER_BYTES
    return first, second


@kernel
def row_bf16(w0: Address, w1: Address, blocks: int, x: Address) -> Any:
    """Two tiles of bfloat16 weights times one float32 row: 16 sums of each, in column order."""
    first, second = splat(0.0), splat(0.0)
    for _ in range(blocks):
        for g in range(16):
            p0, p1 = load_i32(w0 + 64 * g), load_i32(w1 + 64 * g)
            v = broadcast_f32(x + 8 * g)
            first, second = fma(v, low_bf16(p0), first), fma(v, low_bf16(p1), second)
            v = broadcast_f32(x + 8 * g + 4)
            first, second = fma(v, high_bf16(p0), first), fma(v, high_bf16(p1), second)
        w0, w1, x = w0 + BF16_BYTES, w1 + BF16_BYTES, x + 4 * BLOCK
    return first, second


@kernel
def row_pair(
    tile_bytes: int, w0: Address, w1: Address, blocks: int, x: Address, header: Address
) -> Any:
    """Two tiles of any format times one row."""
    if tile_bytes == Q4_BYTES:
        return row_q4(w0, w1, blocks, x, header)
    if tile_bytes == Q8_BYTES:
        return row_q8(w0, w1, blocks, x, header)
    return row_bf16(w0, w1, blocks, x)
