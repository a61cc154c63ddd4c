"""What the formats with row scales share in the kernels. See `quant.row_scaled`.

Products add up s x (sum of codes x activations) over the blocks; the row's scale multiplies the
total at the end. A shift bit adds step x (sum of the block's activations), which rows of
activations bring along; in panels, where weights are widened once for many rows, it is added to
the weights.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.row_scaled import HEAD_BYTES, MOST_SCALE, RowScaled
from cpumix.quant.scale_search import SMALLEST_PEAK

from ..compile.jit import inlined, kernel, parallel_kernel, prange, specialised
from ..simd.lanes import (
    absolute,
    add,
    add_i32,
    div,
    mul,
    rint,
    shift_left,
    staircase,
    to_i32,
    where_greater,
    where_greater_i32,
)
from ..simd.level import LEVEL
from ..simd.vectors import (
    I64,
    VC,
    VF,
    VI,
    Address,
    Builder,
    Lanes,
    Value,
    address,
    constant,
    f32x16,
    i32x16,
    load_at,
    load_f32,
    splat,
    splat_i32,
    store_f32,
    store_i8,
    store_i32,
)
from .codec import IntegerCodec, load_book
from .encoding import largest_bits, magnitudes, transpose_block

Floats = NDArray[np.float32]
SMALLEST_SCALE = np.float32(SMALLEST_PEAK * np.float32(2.0**-20))
BLOCK_BYTES = 2048  # of 16 rows, transposed, in float32
SEARCHED_BYTES = 128  # of a block: 16 float32 scales, then 16 shifts as float32


class RowScaledCodec(IntegerCodec):
    """A format of `quant.row_scaled`; files of formats say how codes are read and packed."""

    head_bytes = HEAD_BYTES
    definition: RowScaled

    def __init__(self) -> None:
        self.tile_bytes = self.definition.tile_bytes
        self.shift_step = self.definition.step
        self.choose = scale_choice(self)

    def table(self, b: Builder, address: Value) -> Value:  # noqa: D102
        return load_book(b, address)

    def _scale_bytes(self, b: Builder, tile: Value) -> Value:
        place = b.add(tile, I64(self.definition.code_bytes))
        return b.sext(load_at(b, place, VC), VI)

    def scales(self, b: Builder, tile: Value) -> Value:  # noqa: D102
        return b.sitofp(b.ashr(self._scale_bytes(b, tile), constant(1)), VF)

    def shifts(self, b: Builder, tile: Value) -> Value:  # noqa: D102
        low = b.and_(self._scale_bytes(b, tile), constant(1))
        return b.sub(constant(0), low)

    @abstractmethod
    def pack(self, code: Any) -> Any:
        """Make the kernel (x, factor, shift, out) that packs a transposed block's codes.

        `code(x, column, factor, shift)` is a column's codes, in 16 lanes.
        """


def look_up(b: Builder, table: Value, index: Value) -> Value:
    """Emit the look-up of codes whose bytes may hold others' bits above the lower four."""
    return LEVEL.lookup(b, table, b.and_(index, constant(0x0F0F0F0F)))


def target_trial(name: str, nearest: Any, shift: np.float32) -> Any:
    """Make the function that rounds a block, scaled by `ratio`, and keeps the best so far."""

    @specialised(inlined, name)
    def try_target(
        x: Address, ratio: Lanes, best: Lanes, scales: Address, shifts: Address
    ) -> Lanes:
        zero = splat(np.float32(0))
        dot, norm = zero, zero
        for c in range(32):
            v = load_f32(x + 64 * c)
            value = nearest(mul(v, ratio))
            dot, norm = add(dot, mul(v, value)), add(norm, mul(value, value))
        candidate = where_greater(norm, zero, div(dot, norm), zero)
        energy = mul(dot, candidate)
        store_f32(scales, where_greater(energy, best, candidate, load_f32(scales)))
        store_f32(shifts, where_greater(energy, best, splat(shift), load_f32(shifts)))
        return where_greater(energy, best, energy, best)

    return try_target


@lru_cache
def block_search(codec: RowScaledCodec) -> Any:
    """Make the kernel that stores a block's scales and shifts, as float32: `search_scales`."""
    definition, tries = codec.definition, []
    for shift in (0, 1):
        values = [float(v + shift * definition.step) for v in definition.values]
        nearest = staircase(f32x16, definition.midpoints(shift).tolist(), values)
        tries.append(target_trial(f"{codec.name}_{shift}", nearest, np.float32(shift)))
    try_plain, try_shifted = tries
    plain, shifted = (tuple(np.float32(t) for t in side) for side in definition.targets)

    @specialised(kernel, codec.name)
    def search(x: Address, scales: Address, shifts: Address) -> None:
        zero, peak = splat(np.float32(0)), magnitudes(x)
        best, usable = splat(np.float32(-1)), splat(SMALLEST_PEAK)
        store_f32(scales, zero)
        store_f32(shifts, zero)
        for target in plain:
            ratio = where_greater(absolute(peak), usable, div(splat(target), peak), zero)
            best = try_plain(x, ratio, best, scales, shifts)
        for target in shifted:
            ratio = where_greater(absolute(peak), usable, div(splat(target), peak), zero)
            best = try_shifted(x, ratio, best, scales, shifts)

    return search


@kernel
def inverse(scale: Lanes) -> Lanes:
    """1 / scale, and 0 where that might overflow."""
    zero, one = splat(np.float32(0)), splat(np.float32(1))
    return where_greater(absolute(scale), splat(SMALLEST_SCALE), div(one, scale), zero)


@kernel
def store_scales(rows: Lanes, scales: Lanes, shifts: Lanes, out: Address) -> Lanes:
    """Store the scale bytes of a block in rows of these scales: `scale_bytes`; return s."""
    most = splat(np.float32(MOST_SCALE))
    s = rint(mul(scales, inverse(rows)))
    s = where_greater(s, most, most, s)
    s = where_greater(splat(np.float32(-MOST_SCALE)), s, splat(np.float32(-MOST_SCALE)), s)
    store_i8(out, add_i32(shift_left(to_i32(s), splat_i32(1)), to_i32(shifts)))
    return s


def scale_choice(codec: RowScaledCodec) -> Any:
    """Make `Codec.choose`."""
    search = block_search(codec)

    @specialised(kernel, codec.name)
    def choose(
        x: Address, row_scales: Address, out: Address, factors: Address, tables: Address
    ) -> None:
        search(x, factors, tables)
        rows, shifts = load_f32(row_scales), load_f32(tables)
        s = store_scales(rows, load_f32(factors), shifts, out)
        store_f32(factors, mul(rows, s))
        store_i32(tables, to_i32(shifts))

    return choose


@lru_cache
def panel_encoder(codec: RowScaledCodec) -> Any:
    """Make the kernel that encodes rows of weights as panels; see `encoding.encoder`.

    All blocks of 16 rows are searched before any is rounded: their scales make the rows' scales.
    """
    definition, search = codec.definition, block_search(codec)
    tile_bytes, code_bytes = definition.tile_bytes, definition.code_bytes
    numbers = list(range(len(definition.book)))
    plain, shifted = (staircase(i32x16, definition.midpoints(s).tolist(), numbers) for s in (0, 1))
    unit = np.float32(1 / MOST_SCALE)

    @specialised(inlined, codec.name)
    def code(x: Address, column: int, factor: Lanes, shift: Lanes) -> Lanes:
        scaled, half = mul(load_f32(x + 64 * column), factor), splat(np.float32(0.5))
        return where_greater_i32(shift, half, shifted(scaled), plain(scaled))

    pack = codec.pack(code)

    @specialised(kernel, codec.name)
    def encode_tile(x: Address, found: Address, rows: Lanes, out: Address) -> None:
        shift = load_f32(found + 64)
        s = store_scales(rows, load_f32(found), shift, out + code_bytes)
        pack(x, inverse(mul(rows, s)), shift, out)

    @specialised(kernel, codec.name)
    def encode_panel(
        bits: NDArray[Any], tile: int, strip: Floats, found: Floats, panels: NDArray[np.uint8]
    ) -> np.int32:
        x, searched, out = address(strip), address(found), address(panels) + tile * panels.shape[1]
        rows, most = splat(np.float32(0)), np.int32(0)
        for b in range(strip.shape[0]):
            transpose_block(bits, 16 * tile, 32 * b, x + BLOCK_BYTES * b)
            most = max(most, largest_bits(x + BLOCK_BYTES * b))
            here = searched + SEARCHED_BYTES * b
            search(x + BLOCK_BYTES * b, here, here + 64)
            scale = absolute(load_f32(here))
            rows = where_greater(scale, rows, scale, rows)
        rows = mul(rows, splat(unit))
        store_f32(out, rows)
        for b in range(strip.shape[0]):
            place = out + HEAD_BYTES + b * tile_bytes
            encode_tile(x + BLOCK_BYTES * b, searched + SEARCHED_BYTES * b, rows, place)
        return most

    @specialised(parallel_kernel, codec.name)
    def encode(bits: NDArray[Any], out: NDArray[np.uint8], largest: NDArray[np.int32]) -> None:
        blocks = (out.shape[1] - HEAD_BYTES) // tile_bytes
        for tile in prange(out.shape[0]):
            strip = np.zeros((blocks, 32, 16), np.float32)
            found = np.zeros((blocks, 2, 16), np.float32)
            largest[tile] = encode_panel(bits, tile, strip, found, out)

    return encode
