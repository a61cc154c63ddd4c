"""RoPE of queries and keys, and writing keys and values to the KV cache.

Scalar on purpose: a key's elements go 16 places apart, and a token has only a few thousand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.kv import F16_INFINITE, KV_BLOCK

from .compile.jit import kernel, prange, row_kernel
from .operands import KVView
from .scalar import rope_row
from .simd.vectors import Address, address, read_f16, read_f32, write_as


@kernel
def slot_of(kv: KVView, table: int, position: int) -> Any:
    """Return the slot of a position of the sequence whose block table begins at `table`."""
    return KV_BLOCK * np.int64(kv.tables[table + position // KV_BLOCK]) + position % KV_BLOCK


@kernel
def find_scale(x: Address, count: int, place: Address, scales: NDArray[Any]) -> Any:
    """Write the scale of `count` float32 to `place`, and return it as it was rounded."""
    peak = wrong = np.float32(0)
    for i in range(count):
        v = read_f32(x + 4 * i)
        peak = max(peak, abs(v))
        wrong += v - v  # NaN where v is, or is infinite: the comparison above would lose it
    write_as(scales, place, peak * np.float32(1 / 127) + wrong)
    return read_f16(place)


@kernel
def write_head(
    x: Address, count: int, cache: NDArray[Any], place: Address, step: int, scales: NDArray[Any],
    scale_place: Address,
) -> None:  # fmt: skip
    """Write `count` float32 to elements of `cache` that lie `step` apart, quantized if it is.

    What the cache cannot hold becomes NaN, not infinity: a score of minus infinity would only make
    attention pass over the position.
    """
    if cache.itemsize > 1:
        limit = np.float32(np.inf) if cache.itemsize == 4 else np.float32(F16_INFINITE)
        for i in range(count):
            v = read_f32(x + 4 * i)
            kept = v if abs(v) < limit else np.float32(np.nan)
            write_as(cache, place + step * cache.itemsize * i, kept)
        return
    scale = find_scale(x, count, scale_place, scales)
    ratio = np.float32(1) / scale if scale > 0 and scale < np.inf else np.float32(0)
    for i in range(count):
        code = np.rint(read_f32(x + 4 * i) * ratio)
        code = min(max(code, np.float32(-127)), np.float32(127))
        write_as(cache, place + step * i, code if ratio > 0 else np.float32(0))


@row_kernel
def store_kv(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    cos: NDArray[np.float32],
    sin: NDArray[np.float32],
    rows: int,
    queries: int,
    kv: KVView,
) -> None:
    """Apply RoPE, then write keys and values to the slots of `rows` rows.

    Shapes: q (>= queries, >= kv_heads * group * head_dim) f32: those of the last rows | k, v
            (>= rows, >= kv_heads * head_dim) f32 | cos, sin (rows, head_dim / 2) f32 | keys and
            values are rounded as in `quant.kv`.
    """
    keys, values, scales, head_dim = kv.keys, kv.values, kv.scales, kv.keys.shape[2]
    for row in prange(rows):
        rope_row(k[row], keys.shape[0], cos[row], sin[row])
        if row >= rows - queries:
            rope_row(q[row - (rows - queries)], keys.shape[0] * kv.group, cos[row], sin[row])
        slot = kv.slots[row]
        for head in range(keys.shape[0]):
            first = 4 * head_dim * head
            scale = address(kv.scales) + head * scales.strides[0] + 2 * slot
            place = address(kv.keys) + head * keys.strides[0] + slot // 16 * keys.strides[1]
            place += slot % 16 * keys.itemsize
            write_head(
                address(k) + row * k.strides[0] + first, head_dim, keys, place, 16, scales, scale
            )
            place = address(kv.values) + head * values.strides[0] + slot * values.strides[1]
            write_head(
                address(v) + row * v.strides[0] + first, head_dim, values, place, 1, scales,
                scale + scales.strides[1],
            )  # fmt: skip
