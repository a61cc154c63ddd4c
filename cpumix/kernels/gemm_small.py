"""Two tiles of weights times a few rows: batches too small to make up for unpacking a panel.

Weights stream from memory as in `matvec`, and are widened in registers once for TOKENS rows; for
more rows than these, two tiles are read again, from the second-level cache, while the next two are
fetched: all groups of rows together ask for all or most of their lines.
"""

from __future__ import annotations

from cpumix.quant import bf16, q4, q8
from cpumix.quant.tiles import BLOCK

from .compile.isa import active
from .compile.jit import inlined, kernel
from .rows import HEADER_BYTES, LINE
from .simd.lanes import high_bf16, high_nibbles, low_bf16, low_nibbles
from .simd.level import (
    LEVEL,
    TOKENS,
    code_book,
    dot4_tokens,
    fma_tokens,
    load_sums,
    lookup,
    scale_tokens,
    start_dots,
    store_sums,
    weights,
)
from .simd.vectors import Address, load_f16, load_i32, prefetch_l2

Q4_BYTES, Q8_BYTES, BF16_BYTES = q4.TILE_BYTES, q8.TILE_BYTES, bf16.TILE_BYTES
# With 16 registers, sums of two tiles and their totals would not stay in them.
SKINNY = LEVEL.registers == 32
# Lines of a tile's block that a group of rows fetches, of 8.5 and 4.5.
Q8_LINES, Q4_LINES = 3, 2
MOST_ROWS = (8 if active().name == "amx" else 8 * TOKENS) if SKINNY else 3  # faster without a panel


@inlined
def fetch(next0: Address, next1: Address, lines: int) -> None:
    """Ask for lines from two places."""
    for i in range(lines):
        prefetch_l2(next0 + LINE * i)
        prefetch_l2(next1 + LINE * i)


@kernel
def rows_q8(
    w0: Address,
    w1: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    header: Address,
    totals: Address,
    next0: Address,
    next1: Address,
) -> None:
    """Add two tiles of 8-bit weights times TOKENS rows to their totals; fetch from two places."""
    stride = x_stride // BLOCK * HEADER_BYTES
    total = load_sums(totals)
    for _ in range(blocks):
        fetch(next0, next1, Q8_LINES)
        acc = start_dots(header, stride)
        for g in range(8):
            first, second = weights(load_i32(w0 + 64 * g)), weights(load_i32(w1 + 64 * g))
            acc = dot4_tokens(acc, first, second, x + 4 * g, x_stride)
        total = scale_tokens(total, acc, load_f16(w0 + 512), load_f16(w1 + 512), header, stride)
        w0, w1, x, header = w0 + Q8_BYTES, w1 + Q8_BYTES, x + BLOCK, header + HEADER_BYTES
        next0, next1 = next0 + LINE * Q8_LINES, next1 + LINE * Q8_LINES
    store_sums(totals, total)


@kernel
def rows_q4(
    w0: Address,
    w1: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    header: Address,
    totals: Address,
    next0: Address,
    next1: Address,
) -> None:
    """Add two tiles of 4-bit weights times TOKENS rows to their totals; fetch from two places."""
    stride, table = x_stride // BLOCK * HEADER_BYTES, code_book()
    total = load_sums(totals)
    for _ in range(blocks):
        fetch(next0, next1, Q4_LINES)
        acc = start_dots(header, stride)
        for g in range(4):
            p0, p1 = load_i32(w0 + 64 * g), load_i32(w1 + 64 * g)
            first, second = lookup(table, low_nibbles(p0)), lookup(table, low_nibbles(p1))
            acc = dot4_tokens(acc, first, second, x + 8 * g, x_stride)
            first, second = lookup(table, high_nibbles(p0)), lookup(table, high_nibbles(p1))
            acc = dot4_tokens(acc, first, second, x + 8 * g + 4, x_stride)
        total = scale_tokens(total, acc, load_f16(w0 + 256), load_f16(w1 + 256), header, stride)
        w0, w1, x, header = w0 + Q4_BYTES, w1 + Q4_BYTES, x + BLOCK, header + HEADER_BYTES
        next0, next1 = next0 + LINE * Q4_LINES, next1 + LINE * Q4_LINES
    store_sums(totals, total)


@kernel
def rows_bf16(
    w0: Address, w1: Address, blocks: int, x: Address, x_stride: int, totals: Address
) -> None:
    """Add two bfloat16 tiles times TOKENS float32 rows to their totals, in column order."""
    total = load_sums(totals)
    for _ in range(blocks):
        for g in range(16):
            p0, p1 = load_i32(w0 + 64 * g), load_i32(w1 + 64 * g)
            total = fma_tokens(total, low_bf16(p0), low_bf16(p1), x + 8 * g, x_stride)
            total = fma_tokens(total, high_bf16(p0), high_bf16(p1), x + 8 * g + 4, x_stride)
        w0, w1, x = w0 + BF16_BYTES, w1 + BF16_BYTES, x + 4 * BLOCK
    store_sums(totals, total)


@kernel
def few_rows(
    tile_bytes: int,
    w0: Address,
    w1: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    header: Address,
    rows: int,
    ahead: int,
    totals: Address,
) -> None:
    """Add two tiles of any format times a few rows to their totals.

    Meanwhile fetch what lies `ahead` bytes behind both tiles, if there is time: with one group of
    rows, memory is the limit as it is.
    """
    next0, next1 = w0, w1
    if rows > TOKENS:
        next0, next1 = w0 + ahead, w1 + ahead
    for row in range(0, rows, TOKENS):
        place, total = x + row * x_stride, totals + 128 * row
        numbers = header + row * (x_stride // BLOCK * HEADER_BYTES)
        if tile_bytes == Q4_BYTES:
            rows_q4(w0, w1, blocks, place, x_stride, numbers, total, next0, next1)
            fetched = LINE * Q4_LINES * blocks
        elif tile_bytes == Q8_BYTES:
            rows_q8(w0, w1, blocks, place, x_stride, numbers, total, next0, next1)
            fetched = LINE * Q8_LINES * blocks
        else:
            rows_bf16(w0, w1, blocks, place, x_stride, total)
            fetched = 0
        next0, next1 = next0 + fetched, next1 + fetched
