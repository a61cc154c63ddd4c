"""What encoders share: a block's peaks and scales, and the loop over rows of weights.

A strip of 16 rows is transposed first, so that a lane is a row; from there on a block is 32
vectors, and the scales of 16 rows are searched at once. Tiles equal those of the NumPy definitions
byte for byte: the same operations in the same order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.scale_search import SMALLEST_PEAK

from ..compile.jit import kernel, parallel_kernel, prange, specialised
from ..simd.lanes import absolute, add, as_i32, div, max_i32, mul, reduce_max_i32, where_greater
from ..simd.vectors import (
    Address,
    Lanes,
    address,
    load_f16,
    load_f32,
    read_as_f32,
    splat,
    splat_i32,
    store_f16,
    store_f32,
    store_i32,
    write_f32,
)

if TYPE_CHECKING:
    from .codec import Codec


@kernel
def magnitudes(x: Address) -> Lanes:
    """Return each lane's first value of largest magnitude among 32, with its sign."""
    peak = load_f32(x)
    for c in range(1, 32):
        v = load_f32(x + 64 * c)
        peak = where_greater(absolute(v), absolute(peak), v, peak)
    return peak


def scale_search(name: str, targets: NDArray[np.float32], nearest: Any) -> Any:
    """Make the kernel that returns a block's scales, as `quant.scale_search` defines.

    `nearest` rounds 16 weights, divided by their scale, to values that the format has.
    """
    candidates = tuple(targets)

    @specialised(kernel, name)
    def search_scale(x: Address) -> Lanes:
        zero, peak = splat(np.float32(0)), magnitudes(x)
        best, scale = splat(np.float32(-1)), zero
        usable = splat(SMALLEST_PEAK)
        for target in candidates:
            ratio = where_greater(absolute(peak), usable, div(splat(target), peak), zero)
            dot, norm = zero, zero
            for c in range(32):
                v = load_f32(x + 64 * c)
                value = nearest(mul(v, ratio))
                dot, norm = add(dot, mul(v, value)), add(norm, mul(value, value))
            candidate = where_greater(norm, zero, div(dot, norm), zero)
            energy = mul(dot, candidate)
            scale = where_greater(energy, best, candidate, scale)
            best = where_greater(energy, best, energy, best)
        return scale

    return search_scale


def float16_scales(name: str, search: Any) -> Any:
    """Make `Codec.choose` of a format whose scales are float16, from what gives a block's 16."""

    @specialised(kernel, name)
    def choose(
        x: Address, row_scales: Address, out: Address, factors: Address, tables: Address
    ) -> None:
        store_f16(out, search(x))
        store_f32(factors, load_f16(out))
        store_i32(tables, splat_i32(0))

    return choose


@kernel
def inverse(tail: Address) -> Lanes:
    """1 / scale of the 16 float16 scales at `tail`, and 0 where a scale is 0."""
    scale = load_f16(tail)
    zero = splat(np.float32(0))
    return where_greater(absolute(scale), zero, div(splat(np.float32(1)), scale), zero)


@kernel
def largest_bits(x: Address) -> Any:
    """Return a transposed block's largest magnitude as float32 bits.

    They are at least 0x7F800000 if any weight is infinite or NaN.
    """
    most = splat_i32(0)
    for c in range(32):
        most = max_i32(most, as_i32(absolute(load_f32(x + 64 * c))))
    return reduce_max_i32(most)


@kernel
def transpose_block(bits: NDArray[Any], first: int, column: int, x: Address) -> None:
    """Store 32 columns of 16 rows of weights at x, (32, 16) f32, zeros where there are none."""
    n, k = bits.shape
    columns, rows = min(32, k - column), min(16, n - first)
    if columns < 32 or rows < 16:
        for c in range(32):
            store_f32(x + 64 * c, splat(np.float32(0)))
    weights, size = address(bits), bits.itemsize
    for row in range(rows):
        place = weights + (first + row) * bits.strides[0] + column * size
        for c in range(columns):
            write_f32(x + 64 * c + 4 * row, read_as_f32(bits, place + c * size))


@lru_cache
def encoder(codec: Codec) -> Any:
    """Make the kernel that encodes rows of weights as tiles of a format.

    It takes bits (n, k): float32, or bfloat16 as u16 | out (tiles, blocks, tile_bytes) u8 | largest
    (tiles,) i32: float32 bits of each tile's largest magnitude.
    """
    encode_block, tile_bytes = codec.encode, codec.tile_bytes

    @specialised(kernel, codec.name)
    def encode_rows(
        bits: NDArray[Any], tile: int, block: NDArray[np.float32], out: NDArray[np.uint8]
    ) -> np.int32:
        x, most = address(block), np.int32(0)
        for b in range(out.shape[1]):
            transpose_block(bits, 16 * tile, 32 * b, x)
            encode_block(x, address(out) + (tile * out.shape[1] + b) * tile_bytes)
            most = max(most, largest_bits(x))
        return most

    @specialised(parallel_kernel, codec.name)
    def encode(bits: NDArray[Any], out: NDArray[np.uint8], largest: NDArray[np.int32]) -> None:
        for tile in prange(out.shape[0]):
            block = np.zeros((32, 16), np.float32)
            largest[tile] = encode_rows(bits, tile, block, out)

    return encode
