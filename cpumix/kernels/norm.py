"""RMSNorm of the residual stream, one row an iteration: no row depends on another or on threads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .compile.jit import prange, row_kernel
from .quantize import quantize_row
from .rows import BLOCK
from .scalar import add_residual
from .simd.lanes import fma, mul, reduce_add
from .simd.vectors import address, load_f32, splat, store_f32


@row_kernel
def norm(
    x: NDArray[np.float32],
    columns: int,
    added: NDArray[np.float32],
    index: NDArray[np.int64],
    weights: NDArray[np.float32],
    gain: NDArray[np.float32],
    eps: float,
    rows: int,
    out: NDArray[np.float32],
    codes: NDArray[np.int8],
    headers: NDArray[np.int32],
) -> None:
    """Add to the residual stream, then RMSNorm: out = x / sqrt(mean(x^2) + eps) * gain.

    The result is also quantized to 8 bits, as the integer products read it.

    Shapes: x, out (>= rows, >= width) f32, zero from `columns` on | added (.., >= columns) f32,
            index (>= rows, k) i64, weights (>= rows, k) f32: see `scalar.add_residual`
            | gain (width,) f32, width a multiple of 32 | codes i8 like out
            | headers (>= rows, >= width / 32, 4) i32: see `quantize.write_header`.
    """
    for row in prange(rows):
        add_residual(x[row], columns, added, index[row], weights[row])
        p, q, w = (
            address(x) + row * x.strides[0],
            address(out) + row * out.strides[0],
            address(gain),
        )
        squares = splat(np.float32(0))
        for i in range(0, 4 * gain.shape[0], 64):
            v = load_f32(p + i)
            squares = fma(v, v, squares)
        mean = reduce_add(squares) / np.float32(columns)
        scale = splat(np.float32(1) / np.sqrt(mean + np.float32(eps)))
        for i in range(0, 4 * gain.shape[0], 64):
            store_f32(q + i, mul(mul(load_f32(p + i), scale), load_f32(w + i)))
        code, header = address(codes) + row * codes.strides[0], address(headers)
        quantize_row(q, gain.shape[0] // BLOCK, code, header + row * headers.strides[0])
