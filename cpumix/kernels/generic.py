"""Kernels for any processor, in plain loops: the `generic` level, with or without the JIT.

Integer sums equal the other levels' exactly; float sums are the same terms in another order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.activations import SMALLEST_ROW_PEAK
from cpumix.quant.tiles import BLOCK

from .compile.jit import parallel_kernel, prange
from .operands import ResidualArrays
from .scalar import add_residual, rope_row, round_up, topk_experts


@parallel_kernel
def multiply_int(
    weights: NDArray[np.int8],
    scales: NDArray[np.float32],
    codes: NDArray[np.int8],
    scale: NDArray[np.float32],
    rows: int,
    out: NDArray[np.float32],
) -> None:
    """Multiply signed weights with a scale for every block of 32 columns by quantized rows.

    Shapes: weights (n, 32 b) i8 | scales (n, b) f32 | codes (>= rows, >= 32 b) i8 | scale (>= rows,
            >= b) f32 | out (>= rows, >= n) f32.
    """
    for i in prange(weights.shape[0]):
        for row in range(rows):
            total = np.float32(0)
            for b in range(scales.shape[1]):
                acc = np.int32(0)
                for c in range(BLOCK * b, BLOCK * b + BLOCK):
                    acc += np.int32(weights[i, c]) * np.int32(codes[row, c])
                total += np.float32(acc) * scale[row, b] * scales[i, b]
            out[row, i] = total


@parallel_kernel
def multiply_float(
    weights: NDArray[np.float32], x: NDArray[np.float32], rows: int, out: NDArray[np.float32]
) -> None:
    """Multiply float32 weights (n, k) by rows of x (>= rows, >= k); out (>= rows, >= n)."""
    for i in prange(weights.shape[0]):
        for row in range(rows):
            total = np.float32(0)
            for c in range(weights.shape[1]):
                total += weights[i, c] * x[row, c]
            out[row, i] = total


@parallel_kernel
def norm(
    x: NDArray[np.float32],
    columns: int,
    residual: ResidualArrays,
    weight: NDArray[np.float32],
    eps: float,
    rows: int,
    out: NDArray[np.float32],
) -> None:
    """Add to the residual stream, then RMSNorm; see `norm.norm`."""
    for row in prange(rows):
        add_residual(x, columns, residual, row)
        squares = np.float32(0)
        for i in range(columns):
            squares += x[row, i] * x[row, i]
        scale = np.float32(1) / np.sqrt(squares / np.float32(columns) + np.float32(eps))
        for i in range(weight.shape[0]):
            out[row, i] = x[row, i] * scale * weight[i]


@parallel_kernel
def rope_rows(
    x: NDArray[np.float32],
    heads: int,
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    rows: int,
) -> None:
    """Apply RoPE to rows; see `scalar.rope_row`; cos, sin (rows, head_dim / 2) f32."""
    for row in prange(rows):
        rope_row(x[row], heads, cos[row], sin[row])


@parallel_kernel
def quantize_rows(
    x: NDArray[np.float32],
    rows: int,
    blocks: int,
    codes: NDArray[np.int8],
    scale: NDArray[np.float32],
    start: NDArray[np.int32],
) -> None:
    """Quantize rows of x to 8 bits, as `quant.activations` defines."""
    for row in prange(rows):
        for b in range(blocks):
            peak, wrong, total = np.float32(0), np.float32(0), 0
            for i in range(BLOCK * b, BLOCK * b + BLOCK):
                peak = max(peak, abs(x[row, i]))
                wrong += x[row, i] - x[row, i]  # NaN where x is, or is infinite
            unit = round_up(peak * np.float32(1 / 127)) + wrong
            ratio = np.float32(1) / unit if peak > np.float32(SMALLEST_ROW_PEAK) else np.float32(0)
            for i in range(BLOCK * b, BLOCK * b + BLOCK):
                value = np.rint(x[row, i] * ratio)
                code = int(value) if value == value else 0  # NaN: there is no code for it
                codes[row, i] = code
                total += code
            scale[row, b] = unit
            start[row, b] = -128 * total


@parallel_kernel
def route(
    x: NDArray[np.float32],
    router: NDArray[np.float32],
    experts: int,
    rows: int,
    topk_ids: NDArray[np.int32],
    topk_weights: NDArray[np.float32],
    norm_topk: bool,
) -> None:
    """Score every expert for every row and keep the best; see `route.route`."""
    for row in prange(rows):
        logits = np.zeros(router.shape[1], np.float32)
        for i in range(router.shape[0]):
            for e in range(experts):
                logits[e] += x[row, i] * router[i, e]
        topk_experts(logits, experts, topk_ids[row], topk_weights[row], norm_topk)


@parallel_kernel
def silu_multiply(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    rows: int,
    columns: int,
    out: NDArray[np.float32],
) -> None:
    """Out = silu(first) * second, element by element."""
    for row in prange(rows):
        for i in range(columns):
            g = first[row, i]
            out[row, i] = g / (np.float32(1) + np.exp(-g)) * second[row, i]


@parallel_kernel
def attention(
    q: NDArray[np.float32],
    keys: NDArray[np.float32],
    values: NDArray[np.float32],
    position: int,
    window: int,
    scale: float,
    group: int,
    out: NDArray[np.float32],
) -> None:
    """Attention, one query at a time; keys and values are float32. See `attention.attention`."""
    m, heads, head_dim, capacity = q.shape[0], keys.shape[0] * group, keys.shape[2], values.shape[1]
    for item in prange(m * heads):
        t, h = item // heads, item % heads
        here = position + t
        lowest = max(0, here - window + 1)
        scores = np.empty(here - lowest + 1, np.float32)
        for p in range(lowest, here + 1):
            slot, total = p % capacity, np.float32(0)
            for d in range(head_dim):
                total += q[t, h * head_dim + d] * keys[h // group, slot // 16, d, slot % 16]
            scores[p - lowest] = total * np.float32(scale)
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        for d in range(head_dim):
            total = np.float32(0)
            for p in range(lowest, here + 1):
                total += weights[p - lowest] * values[h // group, p % capacity, d]
            out[t, h * head_dim + d] = total
