"""RMSNorm of the residual stream, one row an iteration: no row depends on another or on threads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.tiles import BLOCK

from .compile.jit import prange, row_kernel
from .operands import ResidualArrays
from .quantize import quantize_row
from .rows import RowArrays
from .scalar import add_residual
from .simd.lanes import fma, mul, reduce_add
from .simd.vectors import address, load_f32, splat, store_f32


@row_kernel
def norm(
    x: NDArray[np.float32],
    columns: int,
    residual: ResidualArrays,
    gain: NDArray[np.float32],
    eps: float,
    rows: int,
    out: RowArrays,
) -> None:
    """Add to the residual stream, then RMSNorm: out = x / sqrt(mean(x^2) + eps) * gain.

    The result is also quantized to 8 bits, as the integer products read it.

    Shapes: x, out.values (>= rows, >= width) f32, zero from `columns` on | residual for >= rows
            | gain (width,) f32, width a multiple of 32.
    """
    for row in prange(rows):
        add_residual(x, columns, residual, row)
        p, w = address(x) + row * x.strides[0], address(gain)
        q = address(out.values) + row * out.values.strides[0]
        squares = splat(np.float32(0))
        for i in range(0, 4 * gain.shape[0], 64):
            v = load_f32(p + i)
            squares = fma(v, v, squares)
        mean = reduce_add(squares) / np.float32(columns)
        scale = splat(np.float32(1) / np.sqrt(mean + np.float32(eps)))
        for i in range(0, 4 * gain.shape[0], 64):
            store_f32(q + i, mul(mul(load_f32(p + i), scale), load_f32(w + i)))
        codes = address(out.codes) + row * out.codes.strides[0]
        header = address(out.headers) + row * out.headers.strides[0]
        quantize_row(q, gain.shape[0] // BLOCK, codes, header)
