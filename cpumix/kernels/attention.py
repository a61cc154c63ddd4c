"""Grouped-query attention over a KV cache, blocked: scores exist for 64 positions at a time.

A work item is one key-value head and up to 8 neighbouring queries, with all query heads that share
it. It walks the cache in blocks of 64 positions at absolute multiples of 64, keeping for each row a
running maximum, sum and output (online softmax). Blocks that a row may not see leave it unchanged
bit for bit, so a row's result does not depend on its neighbours: prefill equals decode. Where many
rows read the same keys and values, these are widened to float32 first, a part that the first-level
cache holds at a time: on Zen 4 a conversion costs as much as a multiplication.

Keys are laid out with 16 positions as lanes and values with 16 head dimensions as lanes, so nothing
is summed across lanes but the final sum of weights.

Source of the online softmax: Milakov and Gimelshein, https://arxiv.org/abs/1805.02867; its use over
blocks: FlashAttention, https://arxiv.org/abs/2205.14135, algorithm 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.kv import KV_BLOCK

from .attention_block import (
    CORRECTION,
    MAXIMUM,
    QUERY_ROWS,
    STATE,
    SUM,
    UNSEEN,
    Strided,
    score_rows,
    softmax_row,
    weigh_rows,
    widen,
)
from .compile.jit import kernel, parallel_kernel, prange
from .kv_store import slot_of
from .operands import ITEM_QUERIES, KVView
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


class Item(NamedTuple):
    """Neighbouring queries of one sequence, with all query heads that share a key-value head."""

    head: int
    """The key-value head."""
    query: int
    """Row of the first query, in q and in the output."""
    queries: int
    position: int
    """Position of the first query."""
    table: int
    """Where the sequence's block table begins in `kv.tables`."""


class Scratch(NamedTuple):
    """One thread's memory for an item: the scaled query rows, and addresses."""

    q: NDArray[np.float32]
    """(rows, head_dim)."""
    scores: Address
    """64 float32 a row, see `attention_block`."""
    state: Address
    """STATE bytes a row."""
    outputs: Address
    """`width` float32 a row."""
    wide: Address
    """A pair of key tiles, or 32 dimensions of a block's values, as float32."""


@kernel
def gather_rows(q: NDArray[np.float32], kv: KVView, item: Item, rows: int, out: Any) -> None:
    """Copy an item's query rows, scaled, next to one another; rows beyond the last repeat it."""
    count, head_dim, scale = q.shape[0], kv.keys.shape[2], np.float32(kv.scale)
    for row in range(rows):
        t, h = item.query + row // kv.group, item.head * kv.group + row % kv.group
        for d in range(head_dim):
            out[row, d] = q[min(t, count - 1), h * head_dim + d] * scale


@kernel
def clear_rows(scratch: Scratch, rows: int, width: int) -> None:
    """Begin the online softmax of some rows: nothing seen, nothing summed."""
    for row in range(rows):
        state = scratch.state + STATE * row
        store_f32(state + SUM, splat(np.float32(0)))
        write_f32(state + MAXIMUM, np.float32(UNSEEN))
        for d in range(0, width, 16):
            store_f32(scratch.outputs + 4 * (row * width + d), splat(np.float32(0)))


@kernel
def store_quotients(outputs: Address, total: np.float32, head_dim: int, out: Address) -> None:
    """Store one row's outputs divided by the sum of its weights."""
    whole = head_dim // 16 * 16
    for d in range(0, whole, 16):
        p = outputs + 4 * (d // 32 * 32 * QUERY_ROWS + d % 32)
        store_f32(out + 4 * d, div(load_f32(p), splat(total)))
    for d in range(whole, head_dim):
        p = outputs + 4 * (d // 32 * 32 * QUERY_ROWS + d % 32)
        write_f32(out + 4 * d, read_f32(p) / total)


@kernel
def store_outputs(kv: KVView, item: Item, scratch: Scratch, out: NDArray[np.float32]) -> None:
    """Finish the online softmax of an item's rows."""
    head_dim, width = kv.keys.shape[2], kv.values.shape[2]
    for row in range(item.queries * kv.group):
        t, h = item.query + row // kv.group, item.head * kv.group + row % kv.group
        total = reduce_add(load_f32(scratch.state + STATE * row + SUM))
        # Outputs of QUERY_ROWS rows lie together, 32 dimensions at a time: see load_sums.
        place = row // QUERY_ROWS * QUERY_ROWS * width + row % QUERY_ROWS * 32
        target = address(out) + t * out.strides[0] + 4 * h * head_dim
        store_quotients(scratch.outputs + 4 * place, total, head_dim, target)


@kernel
def attention_item(
    q: NDArray[np.float32], kv: KVView, item: Item, out: NDArray[np.float32], scratch: Scratch
) -> None:
    """Compute softmax(q k^T) v of one item, block by block: its queries, in all its query heads."""
    keys, values, scales, scores = kv.keys, kv.values, kv.scales, scratch.scores
    head_dim, width = keys.shape[2], values.shape[2]
    rows = -(-item.queries * kv.group // QUERY_ROWS) * QUERY_ROWS
    # What is used more than once is widened only once.
    wide = rows > QUERY_ROWS and keys.itemsize < 4
    gather_rows(q, kv, item, rows, scratch.q)
    query_rows = address(scratch.q)
    clear_rows(scratch, rows, width)
    last = item.position + item.queries - 1
    first_block = max(0, item.position - kv.window + 1) // KV_BLOCK
    key_head = address(kv.keys) + item.head * keys.strides[0]
    value_head = address(kv.values) + item.head * values.strides[0]
    scales_head = address(kv.scales) + item.head * scales.strides[0]
    for block in range(first_block * KV_BLOCK, last + 1, KV_BLOCK):
        slot = slot_of(kv, item.table, block)
        next_slot = slot_of(kv, item.table, min(block + KV_BLOCK, last))
        tile = key_head + slot // 16 * keys.strides[1]
        next_tile = key_head + next_slot // 16 * keys.strides[1]
        first = value_head + slot * values.strides[1]
        for pair in range(2):
            k, place = tile + 2 * pair * keys.strides[1], scores + 128 * QUERY_ROWS * pair
            ahead = first + LINE * head_dim * pair
            if wide:
                widen(Strided(keys, k, 0), 1, 32 * head_dim, scratch.wide)
                score_rows(query_rows, rows, scratch.q, scratch.wide, head_dim, place, ahead)
            else:
                score_rows(query_rows, rows, keys, k, head_dim, place, ahead)
        for row in range(rows):
            here = item.position + min(row // kv.group, item.queries - 1)
            place = scores + 256 * (row // QUERY_ROWS * QUERY_ROWS) + 128 * (row % QUERY_ROWS)
            state, key_scale = scratch.state + STATE * row, scales_head + 2 * slot
            correction = softmax_row(
                place, keys, key_scale, key_scale + scales.strides[1], state, block,
                here - kv.window + 1, here,
            )  # fmt: skip
            write_f32(state + CORRECTION, reduce_max(correction))
        for d in range(0, width, 32):
            v = Strided(values, first + values.itemsize * d, values.strides[1])
            place, ahead = scratch.outputs + 4 * QUERY_ROWS * d, next_tile + 2 * LINE * d
            factors = scratch.state + CORRECTION
            if wide:
                widen(v, KV_BLOCK, 32, scratch.wide)
                copy = Strided(scratch.q, scratch.wide, 4 * 32)
                weigh_rows(scores, rows, copy, width, factors, place, ahead)
            else:
                weigh_rows(scores, rows, v, width, factors, place, ahead)
    store_outputs(kv, item, scratch, out)


@parallel_kernel
def attention(
    q: NDArray[np.float32],
    kv: KVView,
    out: NDArray[np.float32],
    counter: NDArray[np.int64],
    scratch: NDArray[np.uint8],
) -> None:
    """Compute attention of each query of `kv.items` to its sequence's positions up to its own.

    Shapes: q (m, >= heads * head_dim) f32, after RoPE | out (>= m, >= heads * head_dim) f32
            | counter (1,) i64, 0 | scratch (threads, ..) u8.
    """
    head_dim, chunks = kv.keys.shape[2], kv.items.shape[0]
    items = chunks * kv.keys.shape[0]
    rows = ITEM_QUERIES * kv.group + QUERY_ROWS
    for worker in prange(scratch.shape[0]):
        rows_q = np.empty((rows, head_dim), np.float32)
        scores = (address(scratch) + worker * scratch.strides[0] + 63) // 64 * 64
        state = scores + 4 * KV_BLOCK * rows
        outputs = state + STATE * rows
        mine = Scratch(rows_q, scores, state, outputs, outputs + 4 * kv.values.shape[2] * rows)
        while True:
            number = fetch_add(address(counter), 1)
            if number >= items:
                break
            row, position, queries, table = kv.items[number % chunks]
            item = Item(number // chunks, row, queries, position, table)
            attention_item(q, kv, item, out, mine)


def scratch_bytes(group: int, width: int) -> int:
    """Bytes of scratch memory that one thread needs."""
    rows = ITEM_QUERIES * group + QUERY_ROWS
    return 64 + (4 * KV_BLOCK + STATE + 4 * width) * rows + 4 * max(32 * width, 32 * KV_BLOCK)
