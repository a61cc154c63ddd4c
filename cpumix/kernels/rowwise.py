"""What happens to each row of activations by itself: norm, quantization, routing.

One iteration is one row, so nothing depends on how many rows or threads there are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jit import kernel, prange, row_kernel
from .plain import choose_experts
from .simd import Address, address, broadcast_f32, load_f32, splat, store_f32, store_i8
from .simd_lanes import (
    absolute,
    add_i32,
    fma,
    mul,
    reduce_add,
    reduce_add_i32,
    reduce_max,
    rint,
    to_i32,
    where_greater,
)

SMALLEST_PEAK = 2.0**-100


@row_kernel
def norm(
    x: NDArray[np.float32],
    weight: NDArray[np.float32],
    eps: float,
    columns: int,
    rows: int,
    out: NDArray[np.float32],
) -> None:
    """RMSNorm: out = x / sqrt(mean(x^2) + eps) * weight.

    Shapes: x, out (>= rows, width) f32, width a multiple of 16 and zero from `columns` on | weight
            (width,) f32.
    """
    for row in prange(rows):
        p, q, w = (
            address(x) + row * x.strides[0],
            address(out) + row * out.strides[0],
            address(weight),
        )
        squares = splat(np.float32(0))
        for i in range(0, 4 * weight.shape[0], 64):
            v = load_f32(p + i)
            squares = fma(v, v, squares)
        mean = reduce_add(squares) / np.float32(columns)
        scale = splat(np.float32(1) / np.sqrt(mean + np.float32(eps)))
        for i in range(0, 4 * weight.shape[0], 64):
            store_f32(q + i, mul(mul(load_f32(p + i), scale), load_f32(w + i)))


@kernel
def quantize_block(x: Address, codes: Address) -> Any:
    """Quantize 32 float32 at x to signed bytes; return their scale and sum."""
    low, high = load_f32(x), load_f32(x + 64)
    magnitude = absolute(low)
    magnitude = where_greater(absolute(high), magnitude, absolute(high), magnitude)
    peak = reduce_max(magnitude)
    ratio = splat(np.float32(127) / peak if peak > np.float32(SMALLEST_PEAK) else np.float32(0))
    first, second = to_i32(rint(mul(low, ratio))), to_i32(rint(mul(high, ratio)))
    store_i8(codes, first)
    store_i8(codes + 16, second)
    return peak * np.float32(1 / 127), reduce_add_i32(add_i32(first, second))


@row_kernel
def quantize_rows(
    x: NDArray[np.float32],
    rows: int,
    blocks: int,
    codes: NDArray[np.int8],
    scale: NDArray[np.float32],
    start: NDArray[np.int32],
) -> None:
    """Quantize rows of x to 8 bits, as `quant.activations` defines.

    Shapes: x (>= rows, >= 32 blocks) f32 | codes i8 like x | scale f32, start i32 (>= rows, >=
            blocks).
    """
    for row in prange(rows):
        p, q = address(x) + row * x.strides[0], address(codes) + row * codes.strides[0]
        for b in range(blocks):
            unit, total = quantize_block(p + 128 * b, q + 32 * b)
            scale[row, b] = unit
            start[row, b] = -128 * total


@row_kernel
def route(
    x: NDArray[np.float32],
    router: NDArray[np.float32],
    experts: int,
    rows: int,
    chosen: NDArray[np.int32],
    share: NDArray[np.float32],
) -> None:
    """Score every expert for every row, and keep the best `chosen.shape[1]`.

    Shapes: x (>= rows, >= k) f32 | router (k, width) f32, one expert a column, width a multiple of
            16
            | chosen (>= rows, top_k) i32, share f32: indices and softmax weights, best first; equal
            scores: lower index.
    """
    for row in prange(rows):
        logits = np.empty(router.shape[1], np.float32)
        for lane in range(0, router.shape[1], 16):
            p, w = address(x) + row * x.strides[0], address(router) + 4 * lane
            total = splat(np.float32(0))
            for i in range(router.shape[0]):
                total = fma(broadcast_f32(p + 4 * i), load_f32(w + i * router.strides[0]), total)
            store_f32(address(logits) + 4 * lane, total)
        choose_experts(logits, experts, chosen[row], share[row])
