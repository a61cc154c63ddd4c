"""Kernels that are the same at every level: plain loops that LLVM vectorises well enough."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.activations import LOW_BITS

from .compile.jit import kernel
from .operands import ResidualArrays


@kernel
def round_up(scale: np.float32) -> Any:
    """Round a scale up as `quant.activations` does: NaN of NaN and of infinity."""
    bits = np.float32(scale).view(np.int32)
    rounded = np.int32((bits + LOW_BITS) & ~LOW_BITS).view(np.float32)
    return rounded if scale < np.float32(np.inf) else np.float32(np.nan)


@kernel
def topk_experts(
    logits: NDArray[np.float32],
    experts: int,
    topk_ids: NDArray[np.int32],
    topk_weights: NDArray[np.float32],
    norm_topk: bool,
) -> None:
    """Pick the top-k of `logits` and give them their softmax weights.

    With `norm_topk` among themselves, which equals softmax over all, renormalised; else among all.
    Equal scores go to the lower index. With a score that is NaN or infinite, all weights are NaN:
    comparisons would pass over it.
    """
    top_k = topk_ids.shape[0]
    wrong = np.float32(0)
    for e in range(experts):
        wrong += logits[e] - logits[e]
    for slot in range(top_k):
        best = -1
        for e in range(experts):
            taken = False
            for earlier in range(slot):
                taken = taken or topk_ids[earlier] == e
            if not taken and (best < 0 or logits[e] > logits[best]):
                best = e
        topk_ids[slot] = best
    total = wrong
    for slot in range(top_k):
        topk_weights[slot] = np.exp(logits[topk_ids[slot]] - logits[topk_ids[0]])
        total += topk_weights[slot]
    if not norm_topk:
        total = wrong
        for e in range(experts):
            total += np.exp(logits[e] - logits[topk_ids[0]])
    for slot in range(top_k):
        topk_weights[slot] /= total


@kernel
def rope_row(
    x: NDArray[np.float32], heads: int, cos: NDArray[np.float32], sin: NDArray[np.float32]
) -> None:
    """Apply rotary position embedding in place; element i turns with i + head_dim / 2.

    Shapes: x (>= heads * head_dim,) f32 | cos, sin (head_dim / 2,) f32.
    """
    half = cos.shape[0]
    for head in range(heads):
        first = 2 * half * head
        for i in range(half):
            a, b = x[first + i], x[first + half + i]
            x[first + i] = a * cos[i] - b * sin[i]
            x[first + half + i] = b * cos[i] + a * sin[i]


@kernel
def sort_by_expert(
    topk_ids: NDArray[np.int32],
    rows: int,
    expert_offsets: NDArray[np.int64],
    sorted_tokens: NDArray[np.int64],
    inverse_order: NDArray[np.int64],
) -> None:
    """Sort the (token, expert) pairs by expert, those of one expert by token: a counting sort.

    Shapes: topk_ids (>= rows, top_k) i32 | expert_offsets (experts + 1,) i64: the sorted pairs
            of expert e are those from expert_offsets[e] to expert_offsets[e + 1] - 1
            | sorted_tokens (>= rows * top_k,) i64: the token of each sorted pair
            | inverse_order (>= rows, top_k) i64: where each pair is in the sorted order.
    """
    expert_offsets[:] = 0
    for row in range(rows):
        for slot in range(topk_ids.shape[1]):
            expert_offsets[topk_ids[row, slot] + 1] += 1
    for e in range(1, expert_offsets.shape[0]):
        expert_offsets[e] += expert_offsets[e - 1]
    for row in range(rows):
        for slot in range(topk_ids.shape[1]):
            pair = expert_offsets[topk_ids[row, slot]]
            sorted_tokens[pair], inverse_order[row, slot] = row, pair
            expert_offsets[topk_ids[row, slot]] += 1
    # Each offset has moved on to where the next expert begins.
    for e in range(expert_offsets.shape[0] - 1, 0, -1):
        expert_offsets[e] = expert_offsets[e - 1]
    expert_offsets[0] = 0


@kernel
def add_residual(
    x: NDArray[np.float32],
    columns: int,
    residual: ResidualArrays,
    row: int,
) -> None:
    """Add to a row of the residual stream x (> row, >= columns) f32; see `Residual`."""
    to, added = x[row], residual.rows
    for slot in range(residual.indices.shape[1]):
        source, weight = residual.indices[row, slot], residual.weights[row, slot]
        for i in range(columns):
            to[i] += weight * added[source, i]
