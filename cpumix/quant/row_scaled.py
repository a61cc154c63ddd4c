"""What the formats with 8 bits of scale a block share: rows with a float32 scale of their own.

A weight is row scale x s x (book[code] + shift x step): `s`, -63 to 63, and the shift bit are those
of its block of 32 columns, in one byte: s in bits 7 to 1, shift in bit 0. The two books, one
shifted by `step` against the other, and the sign of s give a block four sets of values to choose
from. A panel, 16 rows in all their columns, begins with a head of 16 float32 row scales.

The idea of a 7-bit scale with a shift bit is that of IQ4_KS,
https://github.com/ikawrakow/ik_llama.cpp/pull/83
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .rounder import Rounder, in_tiles, scales_in_tiles
from .scale_search import SMALLEST_PEAK, search
from .tiles import (
    BLOCK,
    LINE_BYTES,
    TILE_ROWS,
    deinterleave,
    from_blocks,
    interleave,
    pack_planes,
    to_blocks,
    unpack_planes,
)

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
HEAD_BYTES = 4 * TILE_ROWS
MOST_SCALE = 63  # of a block, in units of its row's scale


@dataclass(frozen=True)
class RowScaled:
    """A format of this kind: its values, and how codes lie in a tile."""

    values: tuple[int, ...]
    """Of the codes, ascending."""
    step: int
    """What a set shift bit adds to them."""
    targets: tuple[tuple[float, ...], tuple[float, ...]]
    """What the search maps a block's largest weight to: without the shift, and with it."""
    planes: tuple[int, ...]
    """How the bits of codes lie in a tile, see `tiles`; its 16 scale bytes follow."""
    book: NDArray[np.int8] = field(init=False)

    def __post_init__(self) -> None:
        """Make the arrays that the functions need."""
        object.__setattr__(self, "book", np.array(self.values, np.int8))

    @property
    def code_bytes(self) -> int:
        """Of a tile."""
        return LINE_BYTES * sum(self.planes)

    @property
    def tile_bytes(self) -> int:
        """Of a tile, without its share of the panel's head."""
        return self.code_bytes + TILE_ROWS

    def numbers(self, shift: int) -> Floats:
        """Return what the codes stand for, without the shift or with it."""
        return self.book.astype(np.float32) + np.float32(shift * self.step)

    def midpoints(self, shift: int) -> Floats:
        """Return what lies between these neighbours."""
        numbers = self.numbers(shift)
        middles: Floats = (numbers[1:] + numbers[:-1]) / np.float32(2)
        return middles

    def codes(self, scaled: Floats, shifts: Bytes) -> Bytes:
        """Return the codes nearest to weights (..., 32) divided by their scale; shifts (...)."""
        plain, shifted = (np.searchsorted(self.midpoints(shift), scaled) for shift in (0, 1))
        return np.where(shifts[..., None], shifted, plain).astype(np.uint8)

    def search_scales(self, x: Floats) -> tuple[Floats, NDArray[np.uint8]]:
        """Return each block's scale of least squared error and its shift; x (..., 32)."""
        tries = [
            (target, self._nearest(shift)) for shift in (0, 1) for target in self.targets[shift]
        ]
        scale, found = search(x, tries)
        return scale, (found >= len(self.targets[0])).astype(np.uint8)

    def _nearest(self, shift: int) -> Callable[[Floats], Floats]:
        numbers, midpoints = self.numbers(shift), self.midpoints(shift)
        return lambda scaled: numbers[np.searchsorted(midpoints, scaled)]

    def row_scales(self, scales: Floats) -> Floats:
        """Return the scales of rows (...) whose blocks have these scales (..., blocks)."""
        scaled: Floats = np.abs(scales).max(-1) * np.float32(1 / MOST_SCALE)
        return scaled

    def scale_bytes(self, scales: Floats, shifts: Bytes, row_scales: Floats) -> Bytes:
        """Return the bytes of blocks (..., blocks) in rows of these scales (...)."""
        s = np.rint(scales * inverse(row_scales)[..., None]).clip(-MOST_SCALE, MOST_SCALE)
        made: Bytes = (s.astype(np.int8) << 1).view(np.uint8) | shifts
        return made

    def parts(self, scale_bytes: Bytes) -> tuple[Floats, Bytes]:
        """Return s, as float32, and the shifts of scale bytes."""
        return (scale_bytes.view(np.int8) >> 1).astype(np.float32), scale_bytes & np.uint8(1)

    def quantize(self, w: Floats) -> Bytes:
        """Return w (n, k) as panels (tiles, 64 + blocks x tile_bytes)."""
        x = to_blocks(w)
        scales, shifts = self.search_scales(x)
        rows = self.row_scales(scales)
        tails = self.scale_bytes(scales, shifts, rows)
        s, shifts = self.parts(tails)
        factor = inverse(rows[..., None] * s)
        return self.join(rows, tails, self.codes(x * factor[..., None], shifts))

    def join(self, rows: Floats, tails: Bytes, codes: Bytes) -> Bytes:
        """Return panels of row scales (tiles, 16), scale bytes (.., blocks) and codes (.., 32)."""
        packed = pack_planes(interleave(codes), self.planes)
        lines = packed.reshape(*packed.shape[:2], self.code_bytes)
        tiles = np.concatenate([lines, tails.transpose(0, 2, 1)], axis=-1)
        head = np.ascontiguousarray(rows, np.float32).view(np.uint8)
        return np.concatenate([head, tiles.reshape(len(rows), -1)], axis=-1)

    @property
    def rounder(self) -> Rounder:
        """The format in parts."""
        return Rounder(
            np.stack([self.numbers(0), self.numbers(1)]),
            self._search_block,
            self._pack_rows,
            row_scales=lambda w: self.row_scales(self.search_scales(to_blocks(w))[0]).ravel()[
                : len(w)
            ],
            widen=self._widen,
            scale_type=np.uint8,
        )

    def _search_block(self, x: Floats, row_scales: Floats) -> Bytes:
        """Return the scale bytes (n,) of one block of columns (n, 32)."""
        scales, shifts = self.search_scales(x)
        return self.scale_bytes(scales[:, None], shifts[:, None], row_scales).ravel()

    def _widen(self, scale_bytes: Bytes, row_scales: Floats) -> tuple[Floats, Bytes]:
        s, shifts = self.parts(scale_bytes)
        return row_scales * s, shifts

    def _pack_rows(self, codes: Bytes, scale_bytes: Bytes, row_scales: Floats) -> Bytes:
        head = in_tiles(row_scales[:, None], 1).reshape(-1, TILE_ROWS)
        tails = scales_in_tiles(scale_bytes)
        zero = int(np.searchsorted(self.midpoints(0), 0))
        return self.join(head, tails, in_tiles(codes, BLOCK, zero))

    def tiles(self, panels: Bytes) -> tuple[Floats, Bytes]:
        """Return the row scales (tiles, 16) and the tiles (tiles, blocks, tile_bytes)."""
        head = np.ascontiguousarray(panels[:, :HEAD_BYTES]).view(np.float32)
        return head, panels[:, HEAD_BYTES:].reshape(len(panels), -1, self.tile_bytes)

    def split(self, panels: Bytes) -> tuple[NDArray[np.int8], Floats]:
        """Return signed values (tiles, 16, blocks, 32) and scales (tiles, 16, blocks)."""
        rows, tiles = self.tiles(panels)
        lines = tiles[..., : self.code_bytes].reshape(*tiles.shape[:2], -1, TILE_ROWS, 4)
        codes = deinterleave(unpack_planes(lines, self.planes))
        s, shifts = self.parts(np.ascontiguousarray(tiles[..., self.code_bytes :]))
        offsets = shifts.transpose(0, 2, 1).astype(np.int8) * np.int8(self.step)
        values = self.book[codes] + offsets[..., None]
        return values, s.transpose(0, 2, 1) * rows[..., None]

    def dequantize(self, panels: Bytes, n: int, k: int) -> Floats:
        """Return the (n, k) float32 matrix that the panels hold."""
        values, scales = self.split(panels)
        return from_blocks(values * scales[..., None], n, k)

    def rows(self, panels: Bytes, ids: NDArray[np.int64]) -> Floats:
        """Return the rows with these indices, (len(ids), padded k) float32."""
        needed, place = np.unique(ids // TILE_ROWS, return_inverse=True)
        values, scales = self.split(np.ascontiguousarray(panels[needed]))
        at = place.reshape(-1), ids % TILE_ROWS
        return (values[at] * scales[at][..., None]).reshape(len(ids), -1)

    def is_finite(self, panels: Bytes) -> bool:
        """Whether every row scale is a number."""
        return bool(np.isfinite(self.tiles(panels)[0]).all())


def inverse(scale: Floats) -> Floats:
    """Return 1 / scale, and 0 where that might overflow."""
    zero = np.zeros_like(scale)
    usable = np.abs(scale) > SMALLEST_PEAK * np.float32(2.0**-20)
    return np.divide(np.float32(1), scale, out=zero, where=usable)
