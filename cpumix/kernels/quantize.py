"""Rows of activations quantized to 8 bits, block by block, as `quant.activations` defines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.activations import SMALLEST_ROW_PEAK
from cpumix.quant.tiles import BLOCK

from .compile.jit import kernel, parallel_kernel, prange
from .rows import CENTRE_AT, CENTRED_START_AT, INPUT_HEADER, SCALE_AT, START_AT
from .scalar import round_up
from .simd.lanes import (
    absolute,
    add_i32,
    as_i32,
    max_i32,
    mul,
    reduce_add_i32,
    reduce_max_i32,
    rint,
    to_i32,
)
from .simd.vectors import Address, load_f32, splat, store_i8, write_f32, write_i32

EXPONENT, NAN = 0x7F800000, 0x7FC00000  # bits of float32
CENTRE_BITS = (23 << 23) | (1 << 22)  # what makes 1.5 x 2^(23 + k) of 2^k
LARGEST_CENTRED = (254 - 22) << 23  # scales from here on would have a centre beyond float32


@kernel
def write_header(header: Address, scale: np.float32, total: int) -> None:
    """Write what products need to know of a block of codes with this scale and sum.

    Four numbers of 4 bytes: the scale; -128 x the sum, where accumulators start that take weights
    as code + 128; the float32 from whose neighbourhood `simd.multiples` reads sums, NaN for a scale
    too large to have one; and the bits of that plus the start.
    """
    bits = np.float32(scale).view(np.int32)
    centre = np.int32((bits & EXPONENT) + CENTRE_BITS) if bits < LARGEST_CENTRED else np.int32(NAN)
    write_f32(header + SCALE_AT, scale)
    write_i32(header + START_AT, np.int32(-128 * total))
    write_i32(header + CENTRE_AT, centre)
    write_i32(header + CENTRED_START_AT, np.int32(centre - 128 * total))


@kernel
def quantize_block(x: Address, codes: Address, header: Address) -> None:
    """Quantize 32 float32 at x to signed bytes; with NaN or infinity among them, the scale is NaN.

    Bits of magnitudes are in the order of the magnitudes, and NaN is above them all.
    """
    low, high = load_f32(x), load_f32(x + 64)
    bits = reduce_max_i32(max_i32(as_i32(absolute(low)), as_i32(absolute(high))))
    peak = np.int32(bits).view(np.float32)
    scale = round_up(peak * np.float32(1 / 127))
    ratio = splat(np.float32(1) / scale if peak > np.float32(SMALLEST_ROW_PEAK) else np.float32(0))
    first, second = to_i32(rint(mul(low, ratio))), to_i32(rint(mul(high, ratio)))
    store_i8(codes, first)
    store_i8(codes + 16, second)
    write_header(header, scale, reduce_add_i32(add_i32(first, second)))


@kernel
def quantize_row(x: Address, blocks: int, codes: Address, header: Address) -> None:
    """Quantize a row, block by block."""
    for b in range(blocks):
        quantize_block(x + 4 * BLOCK * b, codes + BLOCK * b, header + INPUT_HEADER * b)


@parallel_kernel
def quantize_rows(inputs: NDArray[np.int64], rows: int) -> None:
    """Quantize rows of activations; inputs (rows, 4) i64 as `Rows.to_quantize` lists them."""
    for row in prange(rows):
        quantize_row(inputs[row, 0], inputs[row, 1], inputs[row, 2], inputs[row, 3])
