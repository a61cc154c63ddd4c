"""What happens to each row of activations by itself: norm, quantization, routing.

One iteration is one row, so nothing depends on how many rows or threads there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..quant.activations import SMALLEST_PEAK
from .jit import kernel, prange, row_kernel
from .plain import add_outputs, choose_experts, round_up
from .rows import BLOCK, CENTRE, HEADER_BYTES, SCALE, START, START_AT_CENTRE
from .simd import (
    Address,
    address,
    broadcast_f32,
    load_f32,
    splat,
    store_f32,
    store_i8,
    write_f32,
    write_i32,
)
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

EXPONENT, NAN = 0x7F800000, 0x7FC00000  # bits of float32
CENTRE_BITS = (23 << 23) | (1 << 22)  # what makes 1.5 x 2^(23 + k) of 2^k
LARGEST = (254 - 22) << 23  # scales from here on would have a centre beyond float32


@kernel
def write_header(header: Address, scale: np.float32, total: int) -> None:
    """Write what products need to know of a block of codes with this scale and sum.

    Four numbers of 4 bytes: the scale; -128 x the sum, where accumulators start that take weights
    as code + 128; the float32 from whose neighbourhood `simd_multiples` reads sums, NaN for a scale
    too large to have one; and the bits of that plus the start.
    """
    bits = np.float32(scale).view(np.int32)
    centre = np.int32((bits & EXPONENT) + CENTRE_BITS) if bits < LARGEST else np.int32(NAN)
    write_f32(header + SCALE, scale)
    write_i32(header + START, np.int32(-128 * total))
    write_i32(header + CENTRE, centre)
    write_i32(header + START_AT_CENTRE, np.int32(centre - 128 * total))


@kernel
def quantize_block(x: Address, codes: Address, header: Address) -> None:
    """Quantize 32 float32 at x to signed bytes."""
    low, high = load_f32(x), load_f32(x + 64)
    magnitude = absolute(low)
    magnitude = where_greater(absolute(high), magnitude, absolute(high), magnitude)
    peak = reduce_max(magnitude)
    scale = round_up(peak * np.float32(1 / 127))
    ratio = splat(np.float32(1) / scale if peak > np.float32(SMALLEST_PEAK) else np.float32(0))
    first, second = to_i32(rint(mul(low, ratio))), to_i32(rint(mul(high, ratio)))
    store_i8(codes, first)
    store_i8(codes + 16, second)
    write_header(header, scale, reduce_add_i32(add_i32(first, second)))


@kernel
def quantize_row(x: Address, blocks: int, codes: Address, header: Address) -> None:
    """Quantize a row, block by block."""
    for b in range(blocks):
        quantize_block(x + 4 * BLOCK * b, codes + BLOCK * b, header + HEADER_BYTES * b)


@row_kernel
def norm(
    x: NDArray[np.float32],
    columns: int,
    outputs: NDArray[np.float32],
    places: NDArray[np.int64],
    share: NDArray[np.float32],
    weight: NDArray[np.float32],
    eps: float,
    rows: int,
    out: NDArray[np.float32],
    codes: NDArray[np.int8],
    headers: NDArray[np.int32],
) -> None:
    """Add to the residual stream, and RMSNorm it: out = x / sqrt(mean(x^2) + eps) * weight.

    Quantized to 8 bits, too. Shapes: x, out (>= rows, >= width) f32, zero from `columns` on |
            outputs, places (>= rows, k), share as in `plain.add_outputs`
            | weight (width,) f32, width a multiple of 32 | codes i8 like out | headers (>= rows, >=
            width / 32, 4) i32.
    """
    for row in prange(rows):
        add_outputs(x[row], columns, outputs, places[row], share[row])
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
        code, header = address(codes) + row * codes.strides[0], address(headers)
        quantize_row(q, weight.shape[0] // BLOCK, code, header + row * headers.strides[0])


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
