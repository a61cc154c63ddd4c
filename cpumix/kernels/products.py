"""Products of weight matrices in tiles with rows of activations: where nearly all of the time goes.

`multiply` runs a list of products in one parallel region. Its unit of work is a pair of tiles (32
output columns), taken from a shared counter, so that a thread that the operating system holds up
does not make the others wait. An item's
arithmetic does not depend on who runs it or on how many rows there are: results are the same, bit
for bit, for every number of threads, and a row of a batch equals the same row alone.

Few rows (decode) stream the tiles through registers, at the speed of memory. Many rows (prefill)
unpack 512 columns of two tiles at a time to a panel of bytes that stays in the first-level cache,
and run all rows over it.

The two tiles of a pair are neighbours of one matrix, or the same tile of two matrices (w1 and w3):
then the pair's output is silu(first) x second, and the intermediate values never reach memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..quant import bf16, q4, q8
from ..quant.tiles import BLOCK
from . import simd_amx as amx
from .isa import active
from .jit import kernel, parallel_kernel, prange
from .math import silu
from .rows import address_of
from .simd import (
    Address,
    Lanes,
    address,
    broadcast_f32,
    broadcast_i32,
    fetch_add,
    load_f16,
    load_f32,
    load_i32,
    read_i64,
    splat,
    splat_i32,
    store_f32,
    store_i32,
)
from .simd_lanes import fma, high_bf16, high_nibbles, low_bf16, low_nibbles, mul, to_f32
from .simd_level import (
    TOKENS,
    UNSIGNED,
    code_book,
    dot4,
    dot4_tokens,
    fma_tokens,
    load_sums,
    lookup,
    panel_codes,
    scale_tokens,
    start_dots,
    store_sums,
    weights,
)

if TYPE_CHECKING:
    from .operands import Product

Q4_BYTES, Q8_BYTES, BF16_BYTES = q4.TILE_BYTES, q8.TILE_BYTES, bf16.TILE_BYTES
AMX = active().name == "amx"

# A product's fields in the job table, int64 each; addresses and strides in bytes.
(
    W0,
    W1,
    PAIRS,
    TILES,
    BLOCKS,
    TILE_BYTES,
    X,
    X_STRIDE,
    SCALE,
    START,
    ROWS,
    OUT,
    OUT_STRIDE,
    FIRST_ITEM,
) = range(14)
FIELDS = 14

FEW_ROWS = 4  # unpacking a panel costs about as much as three rows
CHUNK = 16  # blocks in a panel: 18 KiB, which leaves room for rows in a 32 KiB first-level cache
PANEL_BLOCK = 2 * (512 + 64)
MOST_ROWS = 512
# One thread's memory: the panel, AMX's sums, and the totals of two tiles for every row (and the
# last group's padding).
PANEL, SUMS, TOTALS = 0, CHUNK * PANEL_BLOCK, CHUNK * PANEL_BLOCK + amx.SUMS_BYTES
SCRATCH_BYTES = TOTALS + (MOST_ROWS + 16) * 128


@kernel
def row_q8(w: Address, blocks: int, x: Address, scale: Address, start: Address) -> Lanes:
    """One tile of 8-bit weights times one row: 16 float32 sums."""
    total = splat(0.0)
    for b in range(blocks):
        acc = broadcast_i32(start + 4 * b) if UNSIGNED else splat_i32(0)
        for g in range(8):
            acc = dot4(acc, weights(load_i32(w + 64 * g)), broadcast_i32(x + 4 * g))
        total = fma(mul(to_f32(acc), broadcast_f32(scale + 4 * b)), load_f16(w + 512), total)
        w, x = w + Q8_BYTES, x + BLOCK
    return total


@kernel
def row_q4(w: Address, blocks: int, x: Address, scale: Address, start: Address) -> Lanes:
    """One tile of 4-bit weights times one row: 16 float32 sums."""
    total, table = splat(0.0), code_book()
    for b in range(blocks):
        acc = broadcast_i32(start + 4 * b) if UNSIGNED else splat_i32(0)
        for g in range(4):
            packed = load_i32(w + 64 * g)
            acc = dot4(acc, lookup(table, low_nibbles(packed)), broadcast_i32(x + 8 * g))
            acc = dot4(acc, lookup(table, high_nibbles(packed)), broadcast_i32(x + 8 * g + 4))
        total = fma(mul(to_f32(acc), broadcast_f32(scale + 4 * b)), load_f16(w + 256), total)
        w, x = w + Q4_BYTES, x + BLOCK
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
def row_tile(
    tile_bytes: int, w: Address, blocks: int, x: Address, scale: Address, start: Address
) -> Lanes:
    """One tile of any format times one row."""
    if tile_bytes == Q4_BYTES:
        return row_q4(w, blocks, x, scale, start)
    if tile_bytes == Q8_BYTES:
        return row_q8(w, blocks, x, scale, start)
    return row_bf16(w, blocks, x)


@kernel
def unpack_q8(w: Address, blocks: int, panel: Address) -> None:
    """Copy one tile's blocks to its half of a panel; scales become float32."""
    for _ in range(blocks):
        for g in range(8):
            store_i32(panel + 128 * g, panel_codes(weights(load_i32(w + 64 * g))))
        store_f32(panel + 1024, load_f16(w + 512))
        w, panel = w + Q8_BYTES, panel + PANEL_BLOCK


@kernel
def unpack_q4(w: Address, blocks: int, panel: Address) -> None:
    """Widen one tile's nibbles to bytes in its half of a panel; scales become float32."""
    table = code_book()
    for _ in range(blocks):
        for g in range(4):
            packed = load_i32(w + 64 * g)
            store_i32(panel + 256 * g, panel_codes(lookup(table, low_nibbles(packed))))
            store_i32(panel + 256 * g + 128, panel_codes(lookup(table, high_nibbles(packed))))
        store_f32(panel + 1024, load_f16(w + 256))
        w, panel = w + Q4_BYTES, panel + PANEL_BLOCK


@kernel
def panel_rows(
    panel: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    scale: Address,
    start: Address,
    totals: Address,
) -> None:
    """Add a panel times TOKENS rows to their totals."""
    scale_stride = x_stride // 8  # a float32 scale (and an int32 start) for every 32 bytes of codes
    total = load_sums(totals)
    for b in range(blocks):
        acc = start_dots(start + 4 * b, scale_stride)
        for g in range(8):
            w = panel + 128 * g
            acc = dot4_tokens(acc, load_i32(w), load_i32(w + 64), x + 4 * g, x_stride)
        w0, w1 = load_f32(panel + 1024), load_f32(panel + 1088)
        total = scale_tokens(total, acc, w0, w1, scale + 4 * b, scale_stride)
        panel, x = panel + PANEL_BLOCK, x + BLOCK
    store_sums(totals, total)


@kernel
def bf16_rows(
    w0: Address, w1: Address, blocks: int, x: Address, x_stride: int, totals: Address
) -> None:
    """Add two bfloat16 tiles times TOKENS float32 rows to their totals, in column order."""
    total = load_sums(totals)
    for g in range(16 * blocks):
        p0, p1 = load_i32(w0 + 64 * g), load_i32(w1 + 64 * g)
        total = fma_tokens(total, low_bf16(p0), low_bf16(p1), x + 8 * g, x_stride)
        total = fma_tokens(total, high_bf16(p0), high_bf16(p1), x + 8 * g + 4, x_stride)
    store_sums(totals, total)


@kernel
def chunk_rows(
    tile_bytes: int,
    w0: Address,
    w1: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    scale: Address,
    start: Address,
    rows: int,
    scratch: Address,
) -> None:
    """Add up to CHUNK blocks of two tiles times all rows to the totals."""
    totals, panel = scratch + TOTALS, scratch + PANEL
    if tile_bytes == BF16_BYTES:
        for row in range(0, rows, TOKENS):
            bf16_rows(w0, w1, blocks, x + row * x_stride, x_stride, totals + 128 * row)
        return
    if tile_bytes == Q4_BYTES:
        unpack_q4(w0, blocks, panel)
        unpack_q4(w1, blocks, panel + 64)
    else:
        unpack_q8(w0, blocks, panel)
        unpack_q8(w1, blocks, panel + 64)
    if AMX:
        for row in range(0, rows, 16):
            amx.panel_rows(
                panel,
                blocks,
                x + row * x_stride,
                x_stride,
                scale + row * x_stride // 8,
                totals + 128 * row,
                scratch + SUMS,
            )
        return
    for row in range(0, rows, TOKENS):
        offset = row * (x_stride // 8)
        panel_rows(
            panel,
            blocks,
            x + row * x_stride,
            x_stride,
            scale + offset,
            start + offset,
            totals + 128 * row,
        )


@kernel
def store_pair(job: Address, first: Lanes, second: Lanes, out0: Address, out1: Address) -> None:
    """Store one row's results of a pair of tiles: both, or silu(w1 x) * w3 x."""
    if read_i64(job + 8 * W1) != 0:
        store_f32(out0, mul(silu(first), second))
    else:
        store_f32(out0, first)
        store_f32(out1, second)


@kernel
def pair_many(
    job: Address, w0: Address, w1: Address, out0: Address, out1: Address, scratch: Address
) -> None:
    """Two tiles times many rows, 512 columns at a time."""
    tile_bytes, rows, blocks = (
        read_i64(job + 8 * TILE_BYTES),
        read_i64(job + 8 * ROWS),
        read_i64(job + 8 * BLOCKS),
    )
    x, x_stride = read_i64(job + 8 * X), read_i64(job + 8 * X_STRIDE)
    scale, start = read_i64(job + 8 * SCALE), read_i64(job + 8 * START)
    block_bytes = 4 * BLOCK if tile_bytes == BF16_BYTES else BLOCK
    totals = scratch + TOTALS
    for i in range(2 * (rows + 15)):
        store_f32(totals + 64 * i, splat(0.0))
    for b in range(0, blocks, CHUNK):
        chunk_rows(
            tile_bytes, w0 + b * tile_bytes, w1 + b * tile_bytes, min(CHUNK, blocks - b),
            x + b * block_bytes, x_stride, scale + 4 * b, start + 4 * b, rows, scratch,
        )  # fmt: skip
    stride = read_i64(job + 8 * OUT_STRIDE)
    for row in range(rows):
        first, second = load_f32(totals + 128 * row), load_f32(totals + 128 * row + 64)
        store_pair(job, first, second, out0 + row * stride, out1 + row * stride)


@kernel
def pair_few(job: Address, w0: Address, w1: Address, out0: Address, out1: Address) -> None:
    """Two tiles times a few rows."""
    tile_bytes, blocks = read_i64(job + 8 * TILE_BYTES), read_i64(job + 8 * BLOCKS)
    x_stride, stride = read_i64(job + 8 * X_STRIDE), read_i64(job + 8 * OUT_STRIDE)
    for row in range(read_i64(job + 8 * ROWS)):
        x, offset = read_i64(job + 8 * X) + row * x_stride, row * (x_stride // 8)
        scale, start = read_i64(job + 8 * SCALE) + offset, read_i64(job + 8 * START) + offset
        first = row_tile(tile_bytes, w0, blocks, x, scale, start)
        second = row_tile(tile_bytes, w1, blocks, x, scale, start)
        store_pair(job, first, second, out0 + row * stride, out1 + row * stride)


@kernel
def run_item(job: Address, pair: int, scratch: Address) -> None:
    """One pair of tiles of one product, all rows."""
    tile = read_i64(job + 8 * TILE_BYTES) * read_i64(job + 8 * BLOCKS)
    w0, w1, out = read_i64(job + 8 * W0), read_i64(job + 8 * W1), read_i64(job + 8 * OUT)
    if w1 != 0:
        first, second = pair, pair
    else:
        first, second = (
            2 * pair,
            min(2 * pair + 1, read_i64(job + 8 * TILES) - 1),
        )  # an odd last tile pairs with itself
        w1 = w0
    if read_i64(job + 8 * ROWS) < FEW_ROWS:
        pair_few(job, w0 + first * tile, w1 + second * tile, out + 64 * first, out + 64 * second)
    else:
        pair_many(
            job, w0 + first * tile, w1 + second * tile, out + 64 * first, out + 64 * second, scratch
        )


@parallel_kernel
def multiply(
    jobs: NDArray[np.int64], items: int, counter: NDArray[np.int64], scratch: NDArray[np.uint8]
) -> None:
    """Run all products of a job table, pair by pair of tiles.

    Shapes: jobs (products, FIELDS) i64, `FIRST_ITEM` ascending from 0 | items: pairs in all
            products
            | counter (1,) i64, 0 | scratch (threads, SCRATCH_BYTES) u8.
    """
    grain = max(1, items // (16 * scratch.shape[0]))
    for worker in prange(scratch.shape[0]):
        mine, table, job = address(scratch) + worker * SCRATCH_BYTES, address(jobs), 0
        while True:
            item = fetch_add(address(counter), grain)
            if item >= items:
                break
            for i in range(item, min(item + grain, items)):
                while job + 1 < jobs.shape[0] and jobs[job + 1, FIRST_ITEM] <= i:
                    job += 1
                run_item(table + 8 * FIELDS * job, i - jobs[job, FIRST_ITEM], mine)


def job_table(products: Sequence[Product]) -> tuple[NDArray[np.int64], int]:
    """Lay products out for `multiply`: the table, and how many items they are in all."""
    table, items = np.zeros((len(products), FIELDS), np.int64), 0
    for job, p in zip(table, products, strict=True):
        tiles, blocks, tile_bytes = p.weight.tiles.shape
        rows, scales = (
            (p.x.codes, p.x.scale.strides[0]) if p.weight.takes_codes else (p.x.values, 0)
        )
        second = address_of(p.second.tiles) if p.second is not None else 0
        pairs = tiles if second else -(-tiles // 2)
        job[:] = (
            address_of(p.weight.tiles), second, pairs, tiles, blocks, tile_bytes,
            address_of(rows) + p.first * rows.strides[0], rows.strides[0],
            address_of(p.x.scale) + p.first * scales, address_of(p.x.start) + p.first * scales,
            p.rows, address_of(p.out), p.out.strides[0], items,
        )  # fmt: skip
        items += pairs
    return table, items
