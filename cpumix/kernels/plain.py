"""Kernels that are the same at every level: plain loops that LLVM vectorises well enough."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..quant.activations import LOW_BITS
from .jit import kernel


@kernel
def round_up(scale: np.float32) -> Any:
    """Round a scale up as `quant.activations` does."""
    bits = np.float32(scale).view(np.int32)
    return np.int32((bits + LOW_BITS) & ~LOW_BITS).view(np.float32)


@kernel
def choose_experts(
    logits: NDArray[np.float32], experts: int, chosen: NDArray[np.int32], share: NDArray[np.float32]
) -> None:
    """Pick the top-k of `logits` and give them softmax weights among themselves.

    Softmax over the chosen equals softmax over all, renormalised. Equal scores go to the lower
    index.
    """
    top_k = chosen.shape[0]
    for slot in range(top_k):
        best = -1
        for e in range(experts):
            taken = False
            for earlier in range(slot):
                taken = taken or chosen[earlier] == e
            if not taken and (best < 0 or logits[e] > logits[best]):
                best = e
        chosen[slot] = best
    total = np.float32(0)
    for slot in range(top_k):
        share[slot] = np.exp(logits[chosen[slot]] - logits[chosen[0]])
        total += share[slot]
    for slot in range(top_k):
        share[slot] /= total


@kernel
def rotate_row(
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
def sort_pairs(
    chosen: NDArray[np.int32],
    rows: int,
    firsts: NDArray[np.int64],
    tokens: NDArray[np.int64],
    places: NDArray[np.int64],
) -> None:
    """Sort the pairs of token and expert by expert, and tokens in order.

    Shapes: chosen (>= rows, top_k) i32 | firsts (experts + 1,) i64: where each expert's pairs
            begin, and the last one's end
            | tokens (>= rows * top_k,) i64: each sorted pair's token | places (>= rows, top_k) i64:
            where each pair has gone.
    """
    firsts[:] = 0
    for row in range(rows):
        for slot in range(chosen.shape[1]):
            firsts[chosen[row, slot] + 1] += 1
    for e in range(1, firsts.shape[0]):
        firsts[e] += firsts[e - 1]
    for row in range(rows):
        for slot in range(chosen.shape[1]):
            place = firsts[chosen[row, slot]]
            tokens[place], places[row, slot] = row, place
            firsts[chosen[row, slot]] += 1
    for e in range(firsts.shape[0] - 1, 0, -1):  # each has moved on to the next one's beginning
        firsts[e] = firsts[e - 1]
    firsts[0] = 0


@kernel
def add_outputs(
    x: NDArray[np.float32],
    columns: int,
    outputs: NDArray[np.float32],
    places: NDArray[np.int64],
    share: NDArray[np.float32],
) -> None:
    """Add some rows of outputs, weighted, to a row of the residual stream.

    Shapes: x (>= columns,) f32 | outputs (.., >= columns) f32 | places (k,) i64: which rows | share
            (k,) f32.
    """
    for slot in range(places.shape[0]):
        place, weight = places[slot], share[slot]
        for i in range(columns):
            x[i] += weight * outputs[place, i]
