"""A block of 64 positions for some rows of queries: their scores, weights and weighted values.

A row's scores of a block are 256 bytes; those of ROWS rows lie together, a pair of key tiles (32
positions) after the other. Outputs of ROWS rows lie together too, 32 head dimensions at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compile.jit import kernel
from .rows import LINE
from .simd.lanes import add, mul, reduce_max, sub, where_greater
from .simd.level import TOKENS
from .simd.math import exp
from .simd.sums import sums_of
from .simd.vectors import (
    Address,
    Lanes,
    count_up,
    load_as_f32,
    load_f32,
    load_scale,
    prefetch_l2,
    read_f32,
    splat,
    store_f32,
    write_f32,
)

ROWS = min(TOKENS, 4)  # as many query heads as share a key-value head in Mixtral
_, no_sums, load_sums, store_sums, fma_rows, rescale_rows = sums_of(ROWS)
POSITIONS = 64
NEVER = -1e30  # finite, so that differences of two of them are 0 and not NaN
# A row's state in the scratch memory, in bytes: running maximum, correction, and 16 partial sums.
MAXIMUM, CORRECTION, SUM, STATE = 0, 4, 64, 128


@kernel
def score_pair(
    q: Address, keys: NDArray[Any], pair: Address, head_dim: int, scores: Address, ahead: Address
) -> None:
    """Scores of ROWS rows (head_dim f32 apart) for 32 positions, a pair of key tiles.

    Meanwhile half of the block's values are fetched, from `ahead`.
    """
    size = 16 * head_dim * keys.itemsize
    total = no_sums()
    for d in range(head_dim):
        k = pair + 16 * keys.itemsize * d
        prefetch_l2(ahead + LINE * d)
        total = fma_rows(
            total, load_as_f32(keys, k), load_as_f32(keys, k + size), q + 4 * d, 4 * head_dim
        )
    store_sums(scores, total)


@kernel
def score_rows(
    q: Address, rows: int, keys: NDArray[Any], pair: Address, head_dim: int, scores: Address,
    ahead: Address,
) -> None:  # fmt: skip
    """Scores of all rows for a pair of key tiles, 256 bytes of a block's scores for each row."""
    for row in range(0, rows, ROWS):
        score_pair(q + 4 * head_dim * row, keys, pair, head_dim, scores + 256 * row, ahead)


@kernel
def widen(
    cache: NDArray[Any], source: Address, step: int, count: int, size: int, out: Address
) -> None:
    """Copy `count` stretches of `size` values that lie `step` bytes apart, as float32."""
    for i in range(count):
        for j in range(0, size, 16):
            v = load_as_f32(cache, source + step * i + cache.itemsize * j)
            store_f32(out + 4 * (size * i + j), v)


@kernel
def softmax_row(
    scores: Address,
    keys: NDArray[Any],
    key_scale: Address,
    value_scale: Address,
    state: Address,
    block: int,
    lowest: int,
    highest: int,
) -> Lanes:
    """Turn one row's 64 scores into weights in place and update its state.

    Only lowest <= position <= highest is seen. The scales of 8-bit keys go into the scores, those
    of values into the weights. Returns the correction of what came before.
    """
    best = splat(np.float32(NEVER))
    for i in range(4):
        p = scores + 128 * ROWS * (i // 2) + 64 * (i % 2)
        position = count_up(np.float32(block + 16 * i))
        v = mul(load_f32(p), load_scale(keys, key_scale + 32 * i))
        v = where_greater(splat(np.float32(lowest)), position, splat(np.float32(NEVER)), v)
        v = where_greater(position, splat(np.float32(highest)), splat(np.float32(NEVER)), v)
        store_f32(p, v)
        best = where_greater(v, best, v, best)
    before = read_f32(state + MAXIMUM)
    maximum = max(before, reduce_max(best))
    correction = exp(splat(before - maximum))
    total = mul(load_f32(state + SUM), correction)
    for i in range(4):
        p = scores + 128 * ROWS * (i // 2) + 64 * (i % 2)
        v = load_f32(p)
        weight = where_greater(
            v, splat(np.float32(NEVER)), exp(sub(v, splat(maximum))), splat(np.float32(0))
        )
        store_f32(p, mul(weight, load_scale(keys, value_scale + 32 * i)))
        total = add(total, weight)
    store_f32(state + SUM, total)
    write_f32(state + MAXIMUM, maximum)
    return correction


@kernel
def weigh_rows(
    scores: Address,
    rows: int,
    values: NDArray[Any],
    first: Address,
    step: int,
    width: int,
    factors: Address,
    outputs: Address,
    ahead: Address,
) -> None:
    """Rescale all rows' outputs in 32 head dimensions, and add 64 weighted values `step` apart.

    Meanwhile a part of the next block's keys is fetched, from `ahead`.
    """
    for row in range(0, rows, ROWS):
        place = outputs + 4 * width * row
        total = rescale_rows(load_sums(place), factors + STATE * row, STATE)
        for j in range(POSITIONS):
            v = first + step * j
            prefetch_l2(ahead + LINE * j)
            weight = scores + 256 * row + 128 * ROWS * (j // 32) + 4 * (j % 32)
            total = fma_rows(
                total,
                load_as_f32(values, v),
                load_as_f32(values, v + 16 * values.itemsize),
                weight,
                128,
            )
        store_sums(place, total)
