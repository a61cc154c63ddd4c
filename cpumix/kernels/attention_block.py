"""A block of 64 positions for some rows of queries: their scores, weights and weighted values.

Rows of queries go together in groups of QUERY_ROWS. In the scratch memory, float32:

- scores: [group][pair of key tiles: 2][row of the group][32 positions], 256 bytes for each row;
- outputs: [group][head_dim / 32][row of the group][32 head dimensions].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.kv import KV_BLOCK

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

QUERY_ROWS = min(TOKENS, 4)  # 4 query heads share a key-value head in Mixtral
_, no_sums, load_sums, store_sums, fma_rows, rescale_rows = sums_of(QUERY_ROWS)
UNSEEN = -1e30  # finite, so that differences of two of them are 0 and not NaN
SEEN = -0.99e30  # scores from here on count
# A row's state in the scratch memory, in bytes: running maximum, correction, and 16 partial sums.
MAXIMUM, CORRECTION, SUM, STATE = 0, 4, 64, 128


class Strided(NamedTuple):
    """Numbers of the cache, or float32 copies of them: vectors that lie `step` bytes apart."""

    array: NDArray[Any]
    """Any array of the same element type."""
    first: Address
    step: int


@kernel
def score_pair(
    q: Address, keys: NDArray[Any], pair: Address, head_dim: int, scores: Address, ahead: Address
) -> None:
    """Compute q k^T of QUERY_ROWS rows (head_dim f32 apart) and 32 positions, a pair of key tiles.

    Meanwhile half of the block's values are prefetched, from `ahead`.
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
    """Compute `score_pair` for all groups of rows."""
    for row in range(0, rows, QUERY_ROWS):
        score_pair(q + 4 * head_dim * row, keys, pair, head_dim, scores + 256 * row, ahead)


@kernel
def widen(source: Strided, count: int, size: int, out: Address) -> None:
    """Copy `count` vectors of `size` numbers as float32, one after the other."""
    for i in range(count):
        for j in range(0, size, 16):
            place = source.first + source.step * i + source.array.itemsize * j
            v = load_as_f32(source.array, place)
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
    """Turn one row's 64 scores into softmax weights in place, and update its maximum and sum.

    The block begins at position `block`; positions outside lowest..highest get the weight 0. The
    scales of 8-bit keys are multiplied into the scores, those of values into the weights. Returns
    exp(old maximum - new maximum): what the row has summed so far must be multiplied by it.
    """
    best = splat(np.float32(UNSEEN))
    for i in range(4):
        p = scores + 128 * QUERY_ROWS * (i // 2) + 64 * (i % 2)
        position = count_up(np.float32(block + 16 * i))
        v = mul(load_f32(p), load_scale(keys, key_scale + 32 * i))
        v = where_greater(splat(np.float32(lowest)), position, splat(np.float32(UNSEEN)), v)
        v = where_greater(position, splat(np.float32(highest)), splat(np.float32(UNSEEN)), v)
        store_f32(p, v)
        best = where_greater(v, best, v, best)
    before = read_f32(state + MAXIMUM)
    maximum = max(before, reduce_max(best))
    correction = exp(splat(before - maximum))
    total = mul(load_f32(state + SUM), correction)
    for i in range(4):
        p = scores + 128 * QUERY_ROWS * (i // 2) + 64 * (i % 2)
        v = load_f32(p)
        # In this order a score that is NaN makes the weight NaN, and so the row.
        weight = where_greater(
            splat(np.float32(SEEN)), v, splat(np.float32(0)), exp(sub(v, splat(maximum)))
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
    values: Strided,
    width: int,
    factors: Address,
    outputs: Address,
    ahead: Address,
) -> None:
    """Multiply all rows' outputs by their corrections, and add sum_j weight_j * v_j of the block.

    This is for 32 head dimensions; `factors` is the address of the first row's correction, and
    STATE bytes on is the next one's. Meanwhile a part of the next block's keys is prefetched, from
    `ahead`.
    """
    for row in range(0, rows, QUERY_ROWS):
        place = outputs + 4 * width * row
        total = rescale_rows(load_sums(place), factors + STATE * row, STATE)
        for j in range(KV_BLOCK):
            v = values.first + values.step * j
            prefetch_l2(ahead + LINE * j)
            weight = scores + 256 * row + 128 * QUERY_ROWS * (j // 32) + 4 * (j % 32)
            total = fma_rows(
                total,
                load_as_f32(values.array, v),
                load_as_f32(values.array, v + 16 * values.array.itemsize),
                weight,
                128,
            )
        store_sums(place, total)
