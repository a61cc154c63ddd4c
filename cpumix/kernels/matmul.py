"""Products of weight matrices in tiles with rows of activations: where nearly all of the time goes.

`multiply` runs a list of products in one parallel region. Its unit of work is a pair of tiles (32
output columns), taken from a shared counter, so that a thread that the operating system holds up
does not make the others wait. An item's arithmetic does not depend on who runs it or on how many
rows there are: results are the same, bit for bit, for every number of threads, and a row of a batch
equals the same row alone. One row goes through `matvec`, a few through `skinny`, many through
`panels`.

The two tiles of a pair lie half a matrix apart, or in the same place of two matrices (w1 and w3):
then the pair's output is silu(first) x second, and the intermediate values never reach memory. Pair
after pair, a thread so reads two streams that go on for megabytes: one that starts anew takes as
long as 30 KB more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant import bf16
from cpumix.quant.tiles import BLOCK

from .compile.jit import ALONE, kernel, parallel_kernel, prange
from .gemm import CHUNK, MOST_PAIRS, MOST_ROWS, SCRATCH_BYTES, TOTALS, TOTALS_BYTES, chunk_rows
from .gemm_small import MOST_ROWS as FEW_ROWS
from .gemm_small import SKINNY, few_rows
from .matvec import row_pair
from .quantize import quantize_row
from .rows import HEADER_BYTES, SPARE_ROWS, address_of
from .simd.lanes import mul
from .simd.math import silu
from .simd.vectors import Address, address, fetch_add, load_f32, read_i64, splat, store_f32

if TYPE_CHECKING:
    from .operands import Matmul, MatmulGroup

BF16_BYTES = bf16.TILE_BYTES
GRAINS = 8  # pieces that a thread takes its share in: many against waiting, few against restarts

# A product's fields in the job table, int64 each; addresses, steps and strides in bytes. SINGLE is
# the pair that has one tile only, or -1; APART leads from the first tile's outputs to the second's,
# and is 0 where they become one.
# fmt: off
(W0, W1, STEP, SINGLE, APART, BLOCKS, TILE_BYTES, X, X_STRIDE, HEADER, ROWS, OUT, OUT_STRIDE,
 FIRST_ITEM) = range(14)
# fmt: on
FIELDS = 14


@kernel
def field(job: Address, index: int) -> Any:
    """Read one field of a product."""
    return read_i64(job + 8 * index)


@kernel
def second_tile(job: Address, pair: int) -> Any:
    """Return where a pair's second tile lies; an odd last tile pairs with itself."""
    side = W0 if pair == field(job, SINGLE) else W1
    return field(job, side) + pair * field(job, STEP)


@kernel
def store_rows(job: Address, pair: int, totals: Address) -> None:
    """Store all rows' results of a pair of tiles: both, or silu(w1 x) * w3 x."""
    out, apart = field(job, OUT) + 64 * pair, field(job, APART)
    for _ in range(field(job, ROWS)):
        first, second = load_f32(totals), load_f32(totals + 64)
        if apart == 0:
            store_f32(out, mul(silu(first), second))
        else:
            store_f32(out, first)
            if pair != field(job, SINGLE):
                store_f32(out + apart, second)
        out, totals = out + field(job, OUT_STRIDE), totals + 128


@kernel
def clear(totals: Address, rows: int) -> None:
    """Zero two tiles' totals of some rows, and of those that make them whole groups."""
    for i in range(2 * (rows + SPARE_ROWS - 1)):
        store_f32(totals + 64 * i, splat(0.0))


@kernel
def pairs_many(job: Address, first: int, last: int, scratch: Address) -> None:
    """Pairs first, first + 1, ... last - 1 times many rows, a panel's columns at a time.

    All pairs go over some columns of the rows before any goes over the next: these columns stay in
    the second-level cache, however many rows there are.
    """
    tile_bytes, blocks, rows = field(job, TILE_BYTES), field(job, BLOCKS), field(job, ROWS)
    x, x_stride, header = field(job, X), field(job, X_STRIDE), field(job, HEADER)
    step, block_bytes = field(job, STEP), 4 * BLOCK if tile_bytes == BF16_BYTES else BLOCK
    totals = scratch + TOTALS - first * TOTALS_BYTES
    for pair in range(first, last):
        clear(totals + pair * TOTALS_BYTES, rows)
    for b in range(0, blocks, CHUNK):
        for pair in range(first, last):
            if pair + 1 < last:
                ahead = step
            elif b + CHUNK < blocks:
                ahead = CHUNK * tile_bytes - (pair - first) * step
            else:
                ahead = step - b * tile_bytes
            w0, w1 = field(job, W0) + pair * step, second_tile(job, pair)
            chunk_rows(
                tile_bytes, w0 + b * tile_bytes, w1 + b * tile_bytes, min(CHUNK, blocks - b),
                x + b * block_bytes, x_stride, header + HEADER_BYTES * b, rows, ahead,
                totals + pair * TOTALS_BYTES, scratch,
            )  # fmt: skip


@kernel
def pair_few(job: Address, pair: int, totals: Address) -> None:
    """Two tiles times a few rows."""
    tile_bytes, blocks, rows = field(job, TILE_BYTES), field(job, BLOCKS), field(job, ROWS)
    x, x_stride, header = field(job, X), field(job, X_STRIDE), field(job, HEADER)
    step = field(job, STEP)
    w0, w1 = field(job, W0) + pair * step, second_tile(job, pair)
    clear(totals, rows)
    few_rows(tile_bytes, w0, w1, blocks, x, x_stride, header, rows, step, totals)


@kernel
def pair_singly(job: Address, pair: int, totals: Address) -> None:
    """Two tiles times a few rows, row by row."""
    tile_bytes, blocks = field(job, TILE_BYTES), field(job, BLOCKS)
    x, x_stride, header = field(job, X), field(job, X_STRIDE), field(job, HEADER)
    w0, w1 = field(job, W0) + pair * field(job, STEP), second_tile(job, pair)
    for row in range(field(job, ROWS)):
        first, second = row_pair(tile_bytes, w0, w1, blocks, x, header)
        store_f32(totals + 128 * row, first)
        store_f32(totals + 128 * row + 64, second)
        x, header = x + x_stride, header + x_stride // BLOCK * HEADER_BYTES


@kernel
def run_few(job: Address, pair: int, totals: Address) -> None:
    """Two tiles times a few rows, in the level's own way."""
    if SKINNY:  # a constant, so that a level need not compile what it does not use
        if field(job, ROWS) > 1:
            pair_few(job, pair, totals)
            return
    pair_singly(job, pair, totals)


@kernel
def run_pairs(job: Address, first: int, last: int, scratch: Address) -> None:
    """Run pairs first, first + 1, ... last - 1 of a product: MOST_PAIRS at most.

    All results are stored at the end: silu waits for itself, and so for several pairs at once.
    """
    totals = scratch + TOTALS - first * TOTALS_BYTES
    if field(job, ROWS) > FEW_ROWS:
        pairs_many(job, first, last, scratch)
    else:
        for pair in range(first, last):
            run_few(job, pair, totals + pair * TOTALS_BYTES)
    for pair in range(first, last):
        store_rows(job, pair, totals + pair * TOTALS_BYTES)


@kernel
def quantize_input(inputs: NDArray[np.int64], row: int) -> None:
    """Fill the codes of one row from its values."""
    quantize_row(inputs[row, 0], inputs[row, 1], inputs[row, 2], inputs[row, 3])


@parallel_kernel
def multiply(
    jobs: NDArray[np.int64],
    items: int,
    inputs: NDArray[np.int64],
    counter: NDArray[np.int64],
    scratch: NDArray[np.uint8],
) -> None:
    """Quantize the input rows, then run all products of a job table, pair by pair of tiles.

    Shapes: jobs (products, FIELDS) i64, `FIRST_ITEM` ascending from 0 | items: pairs in all
            products
            | inputs (rows, 4) i64, see `input_rows` | counter (1,) i64, 0 | scratch (threads,
            SCRATCH_BYTES) u8.
    """
    if inputs.shape[0] > ALONE:
        for row in prange(inputs.shape[0]):
            quantize_input(inputs, row)
    else:
        for row in range(inputs.shape[0]):
            quantize_input(inputs, row)
    grain = max(1, items // (GRAINS * scratch.shape[0]))
    if jobs[0, ROWS] > FEW_ROWS:
        grain = min(grain, MOST_PAIRS)
    for worker in prange(scratch.shape[0]):
        mine, table, job = address(scratch) + worker * SCRATCH_BYTES, address(jobs), 0
        while True:
            item = fetch_add(address(counter), grain)
            if item >= items:
                break
            end = min(item + grain, items)
            while item < end:
                while job + 1 < jobs.shape[0] and jobs[job + 1, FIRST_ITEM] <= item:
                    job += 1
                here, first = table + 8 * FIELDS * job, jobs[job, FIRST_ITEM]
                last = min(end, jobs[job + 1, FIRST_ITEM] if job + 1 < jobs.shape[0] else items)
                last = min(last, item + MOST_PAIRS)
                run_pairs(here, item - first, last - first, mine)
                item = last


def job_table(matmuls: Sequence[Matmul]) -> tuple[NDArray[np.int64], int]:
    """Lay products out for `multiply`: the table, and how many items they are in all.

    A product of more rows than a thread has room for becomes several; weights are then read again,
    but the rows stay in the second-level cache meanwhile.
    """
    jobs: list[tuple[int, ...]] = []
    items = 0
    for p in matmuls:
        tiles, blocks, tile_bytes = p.weight.tiles.shape
        w0, tile = p.weight.address, blocks * tile_bytes
        if p.second is not None:
            w1, pairs, single, apart = p.second.address, tiles, -1, 0
        else:
            pairs = -(-tiles // 2)
            w1, apart = w0 + pairs * tile, 64 * pairs
            single = pairs - 1 if tiles % 2 else -1
        out, stride = address_of(p.out), p.out.strides[0]
        for first, rows in shares(p.rows):
            jobs.append((
                w0, w1, tile, single, apart, blocks, tile_bytes,
                *p.x.operand(p.first + first, p.weight.takes_codes),
                rows, out + first * stride, stride, items,
            ))  # fmt: skip
            items += pairs
    return np.array(jobs, np.int64).reshape(-1, FIELDS), items


def input_rows(group: MatmulGroup) -> NDArray[np.int64]:
    """List the rows to be quantized, see `Rows.to_quantize`; what products share, once."""
    if not group.quantize_inputs:
        return np.empty((0, 4), np.int64)
    spans = {(p.x, p.first, p.rows) for p in group.matmuls if p.weight.takes_codes}
    rows = [x.to_quantize(first, count) for x, first, count in spans]
    return np.concatenate(rows) if rows else np.empty((0, 4), np.int64)


def shares(rows: int) -> list[tuple[int, int]]:
    """Cut rows into equal pieces of at most MOST_ROWS, whole groups of 16: (first, count) each."""
    if rows <= MOST_ROWS:
        return [(0, rows)]
    pieces = -(-rows // MOST_ROWS)
    size = -(-rows // (16 * pieces)) * 16
    return [(first, min(size, rows - first)) for first in range(0, rows, size)]
