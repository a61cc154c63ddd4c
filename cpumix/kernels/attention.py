"""Grouped-query attention over a key-value cache, blocked: scores exist for 64 positions at a time.

A work item is one key-value head and up to 8 neighbouring queries, with all query heads that share
it. It walks the cache in blocks of 64 positions at absolute multiples of 64, keeping for each row a
running maximum, sum and output (online softmax). Blocks that a row may not see leave it unchanged
bit for bit, so a row's result does not depend on its neighbours: prefill equals decode. Where many
rows read the same keys and values, these are widened to float32 first, a part that the first-level
cache holds at a time: on Zen 4 a conversion costs as much as a multiplication.

Keys are laid out with 16 positions as lanes and values with 16 head dimensions as lanes, so nothing
is summed across lanes but the final sum of weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .attention_block import (
    CORRECTION,
    MAXIMUM,
    NEVER,
    POSITIONS,
    ROWS,
    STATE,
    SUM,
    score_rows,
    softmax_row,
    weigh_rows,
    widen,
)
from .compile.jit import kernel, parallel_kernel, prange
from .rows import LINE
from .simd.lanes import div, reduce_add, reduce_max
from .simd.vectors import (
    Address,
    address,
    fetch_add,
    load_f32,
    read_f32,
    splat,
    store_f32,
    write_f32,
)

QUERIES = 8


@kernel
def gather_rows(
    q: NDArray[np.float32],
    scale: Any,
    head: int,
    group: int,
    query: int,
    rows: int,
    head_dim: int,
    out: NDArray[np.float32],
) -> None:
    """Copy an item's query rows, scaled, next to one another; rows beyond the last repeat it."""
    count = q.shape[0]
    for row in range(rows):
        t, h = query + row // group, head * group + row % group
        for d in range(head_dim):
            out[row, d] = q[min(t, count - 1), h * head_dim + d] * scale


@kernel
def store_quotients(outputs: Address, total: np.float32, head_dim: int, out: Address) -> None:
    """Store one row's outputs divided by the sum of its weights."""
    whole = head_dim // 16 * 16
    for d in range(0, whole, 16):
        p = outputs + 4 * (d // 32 * 32 * ROWS + d % 32)
        store_f32(out + 4 * d, div(load_f32(p), splat(total)))
    for d in range(whole, head_dim):
        p = outputs + 4 * (d // 32 * 32 * ROWS + d % 32)
        write_f32(out + 4 * d, read_f32(p) / total)


@kernel
def attention_item(
    q: NDArray[np.float32],
    keys: NDArray[Any],
    values: NDArray[Any],
    scales: NDArray[np.uint16],
    position: int,
    window: int,
    scale: float,
    head: int,
    query: int,
    queries: int,
    group: int,
    out: NDArray[np.float32],
    rows_q: NDArray[np.float32],
    state: Address,
    outputs: Address,
    scores: Address,
    floats: Address,
) -> None:
    """All queries and query heads of one item."""
    head_dim, width, capacity = keys.shape[2], values.shape[2], values.shape[1]
    rows = -(-queries * group // ROWS) * ROWS
    # What is used more than once is widened only once.
    wide = rows > ROWS and keys.itemsize < 4
    gather_rows(q, np.float32(scale), head, group, query, rows, head_dim, rows_q)
    query_rows = address(rows_q)
    for row in range(rows):
        store_f32(state + STATE * row + SUM, splat(np.float32(0)))
        write_f32(state + STATE * row + MAXIMUM, np.float32(NEVER))
        for d in range(0, width, 16):
            store_f32(outputs + 4 * (row * width + d), splat(np.float32(0)))
    last = position + query + queries - 1
    first_block = max(0, position + query - window + 1) // POSITIONS
    key_head = address(keys) + head * keys.strides[0]
    value_head = address(values) + head * values.strides[0]
    scales_head = address(scales) + head * scales.strides[0]
    for block in range(first_block * POSITIONS, last + 1, POSITIONS):
        slot = block % capacity
        tile = key_head + slot // 16 * keys.strides[1]
        next_tile = key_head + (slot + POSITIONS) % capacity // 16 * keys.strides[1]
        first = value_head + slot * values.strides[1]
        for pair in range(2):
            k, place = tile + 2 * pair * keys.strides[1], scores + 128 * ROWS * pair
            ahead = first + LINE * head_dim * pair
            if wide:
                widen(keys, k, 0, 1, 32 * head_dim, floats)
                score_rows(query_rows, rows, rows_q, floats, head_dim, place, ahead)
            else:
                score_rows(query_rows, rows, keys, k, head_dim, place, ahead)
        for row in range(rows):
            here = position + query + min(row // group, queries - 1)
            place, s = scores + 256 * (row // ROWS * ROWS) + 128 * (row % ROWS), state + STATE * row
            key_scale = scales_head + 2 * slot
            correction = softmax_row(
                place, keys, key_scale, key_scale + scales.strides[1], s, block,
                here - window + 1, here,
            )  # fmt: skip
            write_f32(s + CORRECTION, reduce_max(correction))
        for d in range(0, width, 32):
            v, place = first + values.itemsize * d, outputs + 4 * ROWS * d
            step, ahead = values.strides[1], next_tile + 2 * LINE * d
            factors = state + CORRECTION
            if wide:
                widen(values, v, step, POSITIONS, 32, floats)
                weigh_rows(scores, rows, rows_q, floats, 128, width, factors, place, ahead)
            else:
                weigh_rows(scores, rows, values, v, step, width, factors, place, ahead)
    for row in range(queries * group):
        t, h = query + row // group, head * group + row % group
        total = reduce_add(load_f32(state + STATE * row + SUM))
        # Outputs of ROWS rows lie together, 32 dimensions at a time: see load_sums.
        first = outputs + 4 * (row // ROWS * ROWS * width + row % ROWS * 32)
        place = address(out) + t * out.strides[0] + 4 * h * head_dim
        store_quotients(first, total, head_dim, place)


@parallel_kernel
def attention(
    q: NDArray[np.float32],
    keys: NDArray[Any],
    values: NDArray[Any],
    scales: NDArray[np.uint16],
    position: int,
    window: int,
    scale: float,
    group: int,
    out: NDArray[np.float32],
    counter: NDArray[np.int64],
    scratch: NDArray[np.uint8],
) -> None:
    """Attend from rows at `position`, `position` + 1, ... to everything cached so far.

    Shapes: q (m, >= heads * head_dim) f32, rotated | keys (kv_heads, capacity / 16, head_dim, 16),
            values (kv_heads, capacity, width) f32, or f16 as u16, or i8 with scales (kv_heads, 2,
            capacity) f16 as u16: the keys', then the values'; width = head_dim rounded up to 32;
            capacity a multiple of 64; position p is in slot p % capacity | out (>= m, >= heads *
            head_dim) f32 | counter (1,) i64, 0 | scratch (threads, ..) u8. A row at position p
            sees positions p - window + 1 .. p.
    """
    m, head_dim = q.shape[0], keys.shape[2]
    chunks = -(-m // QUERIES)
    items = chunks * keys.shape[0]
    rows = QUERIES * group + ROWS
    for worker in prange(scratch.shape[0]):
        rows_q = np.empty((rows, head_dim), np.float32)
        base = (address(scratch) + worker * scratch.strides[0] + 63) // 64 * 64
        scores = base
        state = scores + 4 * POSITIONS * rows
        outputs = state + STATE * rows
        floats = outputs + 4 * values.shape[2] * rows
        while True:
            item = fetch_add(address(counter), 1)
            if item >= items:
                break
            head, query = item // chunks, item % chunks * QUERIES
            attention_item(
                q, keys, values, scales, position, window, scale, head, query,
                min(QUERIES, m - query), group, out, rows_q, state, outputs, scores, floats,
            )  # fmt: skip


def scratch_bytes(group: int, width: int) -> int:
    """Bytes of scratch memory that one thread needs."""
    rows = QUERIES * group + ROWS
    return 64 + (4 * POSITIONS + STATE + 4 * width) * rows + 4 * max(32 * width, 32 * POSITIONS)
