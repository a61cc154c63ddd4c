"""Products of weight matrices in tiles with rows of activations: where nearly all of the time goes.

`multiply` runs a list of products in one parallel region. Its unit of work is a pair of tiles (32
output columns), taken from a shared counter, so that a thread that the operating system holds up
does not make the others wait. An item's arithmetic does not depend on who runs it or on how many
rows there are: results are the same, bit for bit, for every number of threads, and a row of a batch
equals the same row alone. One row goes through `matvec`, a few through `gemm_small`, many through
`gemm`.

Each thread reads two long sequential streams, one for each tile of its pairs; starting a new one
costs as much as reading 30 KB.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import InputRows, TilePair, rows_from
from .codecs.codec import Codec
from .compile.jit import kernel, parallel_kernel, prange, specialised
from .gemm import MOST_PAIRS, PANEL_BLOCKS, SCRATCH_BYTES, TOTALS, TOTALS_BYTES, chunk_rows
from .gemm_small import FEW_ROWS, SEVERAL_AT_ONCE, few_rows
from .jobs import (
    FIRST_ITEM,
    JOB_FIELDS,
    ROW_COUNT,
    TILE_STEP,
    field,
    inputs_of,
    pair_of,
    store_rows,
)
from .matvec import one_row
from .quantize import quantize_row
from .rows import INPUT_HEADER, SPARE_ROWS
from .simd.vectors import Address, address, fetch_add, splat, store_f32

GRAINS = 8  # pieces that a thread takes its share in: many against waiting, few against restarts


@kernel
def clear(totals: Address, rows: int) -> None:
    """Zero two tiles' totals of some rows, and of those that make them whole groups."""
    for i in range(2 * (rows + SPARE_ROWS - 1)):
        store_f32(totals + 64 * i, splat(0.0))


def many_rows(codec: Codec) -> Any:
    """Make the kernel for pairs first, first + 1, ... last - 1 times many rows.

    All pairs go over some columns of the rows before any goes over the next: these columns stay in
    the second-level cache, however many rows there are.
    """
    add_chunk, tile_bytes, x_bytes = chunk_rows(codec), codec.tile_bytes, codec.x_bytes

    @specialised(kernel, codec.name)
    def many_rows(job: Address, first: int, last: int, scratch: Address) -> None:
        step, rows, inputs = field(job, TILE_STEP), field(job, ROW_COUNT), inputs_of(job)
        blocks = pair_of(job, first).blocks
        totals = scratch + TOTALS - first * TOTALS_BYTES
        for pair in range(first, last):
            clear(totals + pair * TOTALS_BYTES, rows)
        for b in range(0, blocks, PANEL_BLOCKS):
            columns = InputRows(
                inputs.x + b * x_bytes, inputs.x_stride, inputs.header + INPUT_HEADER * b
            )
            for pair in range(first, last):
                if pair + 1 < last:
                    ahead = step
                elif b + PANEL_BLOCKS < blocks:
                    ahead = PANEL_BLOCKS * tile_bytes - (pair - first) * step
                else:
                    ahead = step - b * tile_bytes
                w0, w1, _, book = pair_of(job, pair)
                w = b * tile_bytes
                part = TilePair(w0 + w, w1 + w, min(PANEL_BLOCKS, blocks - b), book)
                add_chunk(part, columns, rows, ahead, totals + pair * TOTALS_BYTES, scratch)

    return many_rows


def row_by_row(codec: Codec) -> Any:
    """Make the kernel for a pair times a few rows, in the level's own way."""
    add_few, add_one = few_rows(codec), one_row(codec)

    @specialised(kernel, codec.name)
    def row_by_row(job: Address, pair: int, totals: Address) -> None:
        tiles, inputs, rows = pair_of(job, pair), inputs_of(job), field(job, ROW_COUNT)
        if SEVERAL_AT_ONCE:  # a constant, so that a level need not compile what it does not use
            if rows > 1:
                clear(totals, rows)
                add_few(tiles, inputs, rows, field(job, TILE_STEP), totals)
                return
        for row in range(rows):
            add_one(tiles, rows_from(inputs, row), totals + 128 * row)

    return row_by_row


def some_pairs(codec: Codec) -> Any:
    """Make the kernel for pairs first, first + 1, ... last - 1 of a product: at most MOST_PAIRS.

    All results are stored at the end: silu waits for itself, and so for several pairs at once.
    """
    run_many, run_few, store = many_rows(codec), row_by_row(codec), store_rows(codec)

    @specialised(kernel, codec.name)
    def some_pairs(job: Address, first: int, last: int, scratch: Address) -> None:
        totals = scratch + TOTALS - first * TOTALS_BYTES
        if field(job, ROW_COUNT) > FEW_ROWS:
            run_many(job, first, last, scratch)
        else:
            for pair in range(first, last):
                run_few(job, pair, totals + pair * TOTALS_BYTES)
        for pair in range(first, last):
            store(job, pair, totals + pair * TOTALS_BYTES)

    return some_pairs


@lru_cache
def multiply(codec: Codec) -> Any:
    """Make the kernel that runs all products of a job table.

    The caller's thread first quantizes the input rows that are listed, which should be few.

    Shapes: inputs (rows, 4) i64 as `quantize_rows` takes them | jobs (products, JOB_FIELDS) i64,
            `FIRST_ITEM` ascending from 0 | items: pairs in all products | counter (1,) i64, 0
            | scratch (threads, SCRATCH_BYTES) u8.
    """
    run_pairs = some_pairs(codec)

    @specialised(kernel, codec.name)
    def run_items(
        jobs: NDArray[np.int64],
        items: int,
        grain: int,
        counter: NDArray[np.int64],
        scratch: Address,
    ) -> None:
        """Take items, `grain` at a time, until there are no more."""
        job, count = 0, jobs.shape[0]
        while True:
            item = fetch_add(address(counter), grain)
            if item >= items:
                break
            end = min(item + grain, items)
            while item < end:
                while job + 1 < count and jobs[job + 1, FIRST_ITEM] <= item:
                    job += 1
                here, first = address(jobs) + 8 * JOB_FIELDS * job, jobs[job, FIRST_ITEM]
                last = min(end, jobs[job + 1, FIRST_ITEM] if job + 1 < count else items)
                last = min(last, item + MOST_PAIRS)
                run_pairs(here, item - first, last - first, scratch)
                item = last

    @specialised(parallel_kernel, codec.name)
    def multiply(
        inputs: NDArray[np.int64],
        jobs: NDArray[np.int64],
        items: int,
        counter: NDArray[np.int64],
        scratch: NDArray[np.uint8],
    ) -> None:
        for row in range(inputs.shape[0]):
            quantize_row(inputs[row, 0], inputs[row, 1], inputs[row, 2], inputs[row, 3])
        grain = max(1, items // (GRAINS * scratch.shape[0]))
        if jobs[0, ROW_COUNT] > FEW_ROWS:
            grain = min(grain, MOST_PAIRS)
        for worker in prange(scratch.shape[0]):
            run_items(jobs, items, grain, counter, address(scratch) + worker * SCRATCH_BYTES)

    return multiply
