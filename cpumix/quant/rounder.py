"""How a format rounds a few columns of a matrix at a time, for `compensate`.

Compensated rounding changes weights while it goes: what the rounding of some columns does to a
matrix's outputs, the columns after them make up for. So it needs a format in parts: the scales of a
block of columns, chosen when these are due; the numbers that a weight can become under them; and
tiles of what was chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tiles import BLOCK, TILE_ROWS, to_blocks

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Scales = NDArray[Any]
"""The scales of blocks, as the format stores them."""


def no_row_scales(w: Floats) -> Floats:
    """Return the row scales (n,) of a format that has none."""
    return np.ones(len(w), np.float32)


def one_table(scales: Scales, row_scales: Floats) -> tuple[Floats, Bytes]:
    """Return what scales (n,) are worth and mean in a format whose scales are plain numbers."""
    return scales.astype(np.float32), np.zeros(scales.shape, np.uint8)


@dataclass(frozen=True)
class Rounder:
    """A format in parts. Letters: n rows, k columns (whole blocks), B columns that share a scale.

    A weight becomes factor * tables[table][code], where factor and table are of its row and block:
    the code is that of the nearest number in the table, the lower one of two.
    """

    tables: Floats
    """(tables, numbers), ascending. What a code stands for before it is scaled."""
    search: Callable[[Floats, Floats], Scales]
    """x (n, B), row scales (n,) -> scales (n,): the best for these weights."""
    pack: Callable[[Bytes, Scales, Floats], Bytes]
    """Codes (n, k), scales (n, k / B), row scales (n,) -> the tiles of these n rows."""
    block: int = BLOCK
    """B, which divides 32."""
    scale_type: type[np.generic] = np.float16
    """Of the scales as they are stored."""
    row_scales: Callable[[Floats], Floats] = no_row_scales
    """w (n, k) -> (n,): what is fixed for whole rows, before anything is rounded."""
    widen: Callable[[Scales, Floats], tuple[Floats, Bytes]] = one_table
    """Scales (n,), row scales (n,) -> factors (n,) and tables (n,)."""


def in_tiles(rows: NDArray[Any], width: int, value: int = 0) -> NDArray[Any]:
    """Return rows (n, blocks * width) as (tiles, 16, blocks, width), `value` in missing rows."""
    n, columns = rows.shape
    tiles = -(-n // TILE_ROWS)
    padded = np.full((tiles * TILE_ROWS, columns), value, rows.dtype)
    padded[:n] = rows
    return padded.reshape(tiles, TILE_ROWS, -1, width)


def scales_in_tiles(scales: Scales) -> Scales:
    """Return the scales (n, blocks) of rows as (tiles, 16, blocks), zeros in missing rows."""
    return in_tiles(scales, 1)[..., 0]


def whole_blocks(w: Floats) -> Floats:
    """Return w (n, k) with zeros up to whole blocks of columns."""
    return to_blocks(w).reshape(-1, -(-w.shape[1] // BLOCK) * BLOCK)[: len(w)]
