"""A tile of weights times one row: decode, where weights stream from memory through registers.

One lane is one output row of the matrix, and a block of 32 columns is summed exactly in int32
before it is scaled, in the same order as in `panels`: a row alone and in a batch come out the same.
"""

from __future__ import annotations

from ..quant import bf16, q4, q8
from ..quant.tiles import BLOCK
from .jit import kernel
from .rows import HEADER_BYTES, SCALE, START
from .simd import (
    Address,
    Lanes,
    broadcast_f32,
    broadcast_i32,
    load_f16,
    load_i32,
    prefetch,
    splat,
    splat_i32,
)
from .simd_lanes import fma, high_bf16, high_nibbles, low_bf16, low_nibbles, mul, to_f32
from .simd_level import (
    UNSIGNED,
    code_book,
    dot4,
    lookup,
    weights,
)

Q4_BYTES, Q8_BYTES, BF16_BYTES = q4.TILE_BYTES, q8.TILE_BYTES, bf16.TILE_BYTES
AHEAD = 4096  # bytes: what a core waits for is as fast as a plain read then; best of 1 to 16 KiB


@kernel
def row_q8(w: Address, blocks: int, x: Address, header: Address) -> Lanes:
    """One tile of 8-bit weights times one row: 16 float32 sums."""
    total = splat(0.0)
    for _ in range(blocks):
        acc = broadcast_i32(header + START) if UNSIGNED else splat_i32(0)
        for line in range(0, Q8_BYTES, 64):
            prefetch(w + AHEAD + line)
        for g in range(8):
            acc = dot4(acc, weights(load_i32(w + 64 * g)), broadcast_i32(x + 4 * g))
        total = fma(mul(to_f32(acc), broadcast_f32(header + SCALE)), load_f16(w + 512), total)
        w, x, header = w + Q8_BYTES, x + BLOCK, header + HEADER_BYTES
    return total


@kernel
def row_q4(w: Address, blocks: int, x: Address, header: Address) -> Lanes:
    """One tile of 4-bit weights times one row: 16 float32 sums."""
    total, table = splat(0.0), code_book()
    for _ in range(blocks):
        acc = broadcast_i32(header + START) if UNSIGNED else splat_i32(0)
        for line in range(0, Q4_BYTES, 64):
            prefetch(w + AHEAD + line)
        for g in range(4):
            packed = load_i32(w + 64 * g)
            acc = dot4(acc, lookup(table, low_nibbles(packed)), broadcast_i32(x + 8 * g))
            acc = dot4(acc, lookup(table, high_nibbles(packed)), broadcast_i32(x + 8 * g + 4))
        total = fma(mul(to_f32(acc), broadcast_f32(header + SCALE)), load_f16(w + 256), total)
        w, x, header = w + Q4_BYTES, x + BLOCK, header + HEADER_BYTES
    return total


@kernel
def row_bf16(w: Address, blocks: int, x: Address) -> Lanes:
    """One tile of bfloat16 weights times one float32 row: 16 float32 sums, in column order."""
    total = splat(0.0)
    for _ in range(blocks):
        for g in range(16):
            pair = load_i32(w + 64 * g)
            total = fma(broadcast_f32(x + 8 * g), low_bf16(pair), total)
            total = fma(broadcast_f32(x + 8 * g + 4), high_bf16(pair), total)
        w, x = w + BF16_BYTES, x + 4 * BLOCK
    return total


@kernel
def row_tile(tile_bytes: int, w: Address, blocks: int, x: Address, header: Address) -> Lanes:
    """One tile of any format times one row."""
    if tile_bytes == Q4_BYTES:
        return row_q4(w, blocks, x, header)
    if tile_bytes == Q8_BYTES:
        return row_q8(w, blocks, x, header)
    return row_bf16(w, blocks, x)
