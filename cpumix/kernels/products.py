"""Products of weight matrices in tiles with rows of activations: where nearly all of the time goes.

`multiply` runs a list of products in one parallel region. Its unit of work is a pair of tiles (32
output columns), taken from a shared counter, so that a thread that the operating system holds up
does not make the others wait. An item's arithmetic does not depend on who runs it or on how many
rows there are: results are the same, bit for bit, for every number of threads, and a row of a batch
equals the same row alone. Few rows go through `matvec`, many through `panels`.

The two tiles of a pair are neighbours of one matrix, or the same tile of two matrices (w1 and w3):
then the pair's output is silu(first) x second, and the intermediate values never reach memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..quant import bf16
from ..quant.tiles import BLOCK
from .jit import kernel, parallel_kernel, prange
from .math import silu
from .matvec import row_tile
from .panels import CHUNK, MOST_ROWS, SCRATCH_BYTES, TOTALS, chunk_rows
from .rows import HEADER_BYTES, address_of
from .simd import (
    Address,
    Lanes,
    address,
    fetch_add,
    load_f32,
    read_i64,
    splat,
    store_f32,
)
from .simd_lanes import mul

if TYPE_CHECKING:
    from .operands import Product

BF16_BYTES = bf16.TILE_BYTES
GRAINS = 8  # pieces that a thread takes its share in: many against waiting, few against restarts

# A product's fields in the job table, int64 each; addresses and strides in bytes.
# fmt: off
(W0, W1, PAIRS, TILES, BLOCKS, TILE_BYTES, X, X_STRIDE, HEADER, ROWS, OUT, OUT_STRIDE,
 FIRST_ITEM) = range(13)
# fmt: on
FIELDS = 13

FEW_ROWS = 4  # unpacking a panel costs about as much as three rows


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
    """Two tiles times many rows, a panel's columns at a time."""
    tile_bytes, rows, blocks = (
        read_i64(job + 8 * TILE_BYTES),
        read_i64(job + 8 * ROWS),
        read_i64(job + 8 * BLOCKS),
    )
    x, x_stride = read_i64(job + 8 * X), read_i64(job + 8 * X_STRIDE)
    header = read_i64(job + 8 * HEADER)
    pair = blocks * tile_bytes * (1 if read_i64(job + 8 * W1) != 0 else 2)
    block_bytes = 4 * BLOCK if tile_bytes == BF16_BYTES else BLOCK
    totals = scratch + TOTALS
    for i in range(2 * (rows + 15)):
        store_f32(totals + 64 * i, splat(0.0))
    for b in range(0, blocks, CHUNK):
        ahead = CHUNK * tile_bytes if b + CHUNK < blocks else pair - b * tile_bytes
        chunk_rows(
            tile_bytes, w0 + b * tile_bytes, w1 + b * tile_bytes, min(CHUNK, blocks - b),
            x + b * block_bytes, x_stride, header + HEADER_BYTES * b, rows, ahead, scratch,
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
        x = read_i64(job + 8 * X) + row * x_stride
        header = read_i64(job + 8 * HEADER) + row * (x_stride // BLOCK * HEADER_BYTES)
        first = row_tile(tile_bytes, w0, blocks, x, header)
        second = row_tile(tile_bytes, w1, blocks, x, header)
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
    grain = max(1, items // (GRAINS * scratch.shape[0]))
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
    """Lay products out for `multiply`: the table, and how many items they are in all.

    A product of more rows than a thread has room for becomes several; weights are then read again,
    but the rows stay in the second-level cache meanwhile.
    """
    jobs: list[tuple[int, ...]] = []
    items = 0
    for p in products:
        tiles, blocks, tile_bytes = p.weight.tiles.shape
        second = p.second.address if p.second is not None else 0
        pairs = tiles if second else -(-tiles // 2)
        out, stride = address_of(p.out), p.out.strides[0]
        for first, rows in shares(p.rows):
            jobs.append((
                p.weight.address, second, pairs, tiles, blocks, tile_bytes,
                *p.x.operand(p.first + first, p.weight.takes_codes),
                rows, out + first * stride, stride, items,
            ))  # fmt: skip
            items += pairs
    return np.array(jobs, np.int64).reshape(-1, FIELDS), items


def shares(rows: int) -> list[tuple[int, int]]:
    """Cut rows into equal pieces of at most MOST_ROWS, whole groups of 16: (first, count) each."""
    if rows <= MOST_ROWS:
        return [(0, rows)]
    pieces = -(-rows // MOST_ROWS)
    size = -(-rows // (16 * pieces)) * 16
    return [(first, min(size, rows - first)) for first in range(0, rows, size)]
