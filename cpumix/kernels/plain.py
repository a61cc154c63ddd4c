"""Kernels that are the same at every level: plain loops that LLVM vectorises well enough."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..quant.activations import LOW_BITS
from .jit import kernel, prange, row_kernel


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


@row_kernel
def rotate(
    x: NDArray[np.float32],
    heads: int,
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    rows: int,
) -> None:
    """Apply rotary position embedding in place; element i turns with i + head_dim / 2.

    Shapes: x (>= rows, >= heads * head_dim) f32 | cos, sin (rows, head_dim / 2) f32.
    """
    half = cos.shape[1]
    for row in prange(rows):
        for head in range(heads):
            first = 2 * half * head
            for i in range(half):
                a, b = x[row, first + i], x[row, first + half + i]
                x[row, first + i] = a * cos[row, i] - b * sin[row, i]
                x[row, first + half + i] = b * cos[row, i] + a * sin[row, i]


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


@row_kernel
def combine(
    x: NDArray[np.float32],
    experts: NDArray[np.float32],
    places: NDArray[np.int64],
    share: NDArray[np.float32],
    rows: int,
) -> None:
    """Add the chosen experts' outputs, weighted, to the residual stream.

    Shapes: x (>= rows, width) f32 | experts (.., >= width) f32 | places (rows, top_k) i64: where
            each row's outputs lie
            | share (>= rows, top_k) f32.
    """
    for row in prange(rows):
        for slot in range(places.shape[1]):
            place, weight = places[row, slot], share[row, slot]
            for i in range(x.shape[1]):
                x[row, i] += weight * experts[place, i]


@row_kernel
def accumulate(x: NDArray[np.float32], update: NDArray[np.float32], rows: int) -> None:
    """Add update to x, both (>= rows, >= x.shape[1]) f32."""
    for row in prange(rows):
        for i in range(x.shape[1]):
            x[row, i] += update[row, i]
