"""Weights to tiles: the fast twins of the quantize functions in `quant`, for the converter.

A strip of 16 rows is transposed first, so that a lane is a row; from there on a block is 32
vectors, and the scales of 16 rows are searched at once. Equal to the NumPy definitions byte for
byte: the same operations in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant import q4, q8

from .compile.jit import kernel, parallel_kernel, prange
from .simd.lanes import (
    absolute,
    add,
    add_i32,
    as_i32,
    div,
    either,
    max_i32,
    mul,
    reduce_max_i32,
    rint,
    shift_left,
    shift_right,
    staircase,
    to_i32,
    where_greater,
)
from .simd.vectors import (
    Address,
    Lanes,
    address,
    f32x16,
    i32x16,
    load_f16,
    load_f32,
    read_as_f32,
    splat,
    splat_i32,
    store_f16,
    store_i32,
)

Q4_BYTES, Q8_BYTES = q4.TILE_BYTES, q8.TILE_BYTES
TARGETS, SMALLEST_PEAK = q4.PEAK_TARGETS, q4.SMALLEST_PEAK
nearest_value = staircase(f32x16, q4.MIDPOINTS.tolist(), [float(v) for v in q4.CODE_BOOK])
nearest_index = staircase(i32x16, q4.MIDPOINTS.tolist(), list(range(16)))


@kernel
def magnitudes(x: Address) -> Lanes:
    """Return each lane's first value of largest magnitude among 32, with its sign."""
    peak = load_f32(x)
    for c in range(1, 32):
        v = load_f32(x + 64 * c)
        peak = where_greater(absolute(v), absolute(peak), v, peak)
    return peak


@kernel
def inverse(tail: Address) -> Lanes:
    """1 / scale of the 16 float16 scales at `tail`, and 0 where a scale is 0."""
    scale = load_f16(tail)
    zero = splat(np.float32(0))
    return where_greater(absolute(scale), zero, div(splat(np.float32(1)), scale), zero)


@kernel
def q8_code(x: Lanes, factor: Lanes) -> Lanes:
    """Return the stored code, 1..255, of 16 weights."""
    limit = splat(np.float32(127))
    code = rint(mul(x, factor))
    code = where_greater(code, limit, limit, code)
    code = where_greater(splat(np.float32(-127)), code, splat(np.float32(-127)), code)
    return add_i32(to_i32(code), splat_i32(128))


@kernel
def encode_q8(x: Address, out: Address) -> None:
    """Encode a transposed block (32 columns, 16 rows) f32 at x as one 8-bit tile."""
    store_f16(out + 512, mul(absolute(magnitudes(x)), splat(np.float32(1 / 127))))
    factor = inverse(out + 512)
    for g in range(8):
        word = splat_i32(0)
        for c in range(4):
            word = either(
                word, shift_left(q8_code(load_f32(x + 256 * g + 64 * c), factor), splat_i32(8 * c))
            )
        store_i32(out + 64 * g, word)


@kernel
def search_scale(x: Address) -> Lanes:
    """Return the scale of least squared error, as `quant.q4.search_scale` defines."""
    zero, peak = splat(np.float32(0)), magnitudes(x)
    best, scale = splat(np.float32(-1)), zero
    for target in TARGETS:
        ratio = where_greater(absolute(peak), splat(SMALLEST_PEAK), div(splat(target), peak), zero)
        dot, norm = zero, zero
        for c in range(32):
            v = load_f32(x + 64 * c)
            value = nearest_value(mul(v, ratio))
            dot, norm = add(dot, mul(v, value)), add(norm, mul(value, value))
        candidate = div(dot, norm)
        energy = mul(dot, candidate)
        scale = where_greater(energy, best, candidate, scale)
        best = where_greater(energy, best, energy, best)
    return scale


@kernel
def encode_q4(x: Address, out: Address) -> None:
    """Encode a transposed block as one 4-bit tile."""
    store_f16(out + 256, search_scale(x))
    factor = inverse(out + 256)
    for g in range(4):
        word = splat_i32(0)
        for c in range(4):
            low = nearest_index(mul(load_f32(x + 512 * g + 64 * c), factor))
            high = nearest_index(mul(load_f32(x + 512 * g + 256 + 64 * c), factor))
            nibbles = either(low, shift_left(high, splat_i32(4)))
            word = either(word, shift_left(nibbles, splat_i32(8 * c)))
        store_i32(out + 64 * g, word)


@kernel
def bf16_bits(x: Lanes) -> Lanes:
    """Return 16 float32 as bfloat16, ties to even, in the lower half of each lane."""
    bits = as_i32(x)
    odd = shift_right(shift_left(bits, splat_i32(15)), splat_i32(31))
    return shift_right(add_i32(bits, add_i32(odd, splat_i32(0x7FFF))), splat_i32(16))


@kernel
def encode_bf16(x: Address, out: Address) -> None:
    """Encode a transposed block as one bfloat16 tile."""
    for g in range(16):
        low, high = bf16_bits(load_f32(x + 128 * g)), bf16_bits(load_f32(x + 128 * g + 64))
        store_i32(out + 64 * g, either(low, shift_left(high, splat_i32(16))))


@kernel
def largest_bits(x: Address) -> Any:
    """Return a transposed block's largest magnitude as float32 bits.

    They are at least 0x7F800000 if any weight is infinite or NaN.
    """
    most = splat_i32(0)
    for c in range(32):
        most = max_i32(most, as_i32(absolute(load_f32(x + 64 * c))))
    return reduce_max_i32(most)


@parallel_kernel
def encode(
    bits: NDArray[Any], tile_bytes: int, out: NDArray[np.uint8], largest: NDArray[np.int32]
) -> None:
    """Encode rows of weights as tiles of the format whose tiles have `tile_bytes` bytes.

    Shapes: bits (n, k): float32, or bfloat16 as u16 | out (tiles, blocks, tile_bytes) u8 | largest
            (tiles,) i32: float32 bits of each tile's largest magnitude.
    """
    n, k = bits.shape
    first, size = address(bits), bits.itemsize
    for tile in prange(out.shape[0]):
        block = np.zeros((32, 16), np.float32)
        x, most = address(block), np.int32(0)
        for b in range(out.shape[1]):
            columns, rows = min(32, k - 32 * b), min(16, n - 16 * tile)
            if columns < 32 or rows < 16:
                block[:] = 0
            for row in range(rows):
                for c in range(columns):
                    block[c, row] = read_as_f32(
                        bits, first + (16 * tile + row) * bits.strides[0] + (32 * b + c) * size
                    )
            place = address(out) + (tile * out.shape[1] + b) * tile_bytes
            if tile_bytes == Q4_BYTES:
                encode_q4(x, place)
            elif tile_bytes == Q8_BYTES:
                encode_q8(x, place)
            else:
                encode_bf16(x, place)
            most = max(most, largest_bits(x))
        largest[tile] = most
