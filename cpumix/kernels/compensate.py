"""The fast path of `quant.compensate`: panels of columns rounded at this process's level.

A lane is a row. The arithmetic is that of the definition, in its order, so that codes, scales and
errors equal the definition's bit for bit. One thread rounds one panel; callers give each of their
threads other rows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.quant import FORMATS
from cpumix.quant.compensate import Rounded, RoundPanel
from cpumix.quant.compensate import round_panel as round_panel_by_definition
from cpumix.quant.rounder import Floats, Rounder, no_row_scales
from cpumix.quant.tiles import TILE_ROWS

from .compile.isa import active
from .encode import encode

if TYPE_CHECKING:
    from .codecs.codec import Codec


class Tile(NamedTuple):
    """What a thread works on: columns of 16 rows, a column's 16 side by side."""

    was: Floats
    """The weights, (columns, 16)."""
    now: Floats
    """What the errors so far have moved them to, (columns, 16)."""
    expected: Floats
    """A block's weights as its scales are chosen for, (block, 16)."""
    codes: NDArray[np.uint8]
    """(columns, 16)."""
    errors: Floats
    """Of the rounded weights, (columns, 16)."""
    row_scales: Floats
    """(16,), as are the rest: of one block, what `Codec.choose` gives."""
    factors: Floats
    inverses: Floats
    tables: NDArray[np.int32]


def panel_rounder(format_name: str) -> RoundPanel:
    """Return the function that rounds panels of a format; any number of threads may call it."""
    if active().name == "generic":
        return round_panel_by_definition
    from .codecs import CODECS

    run = _make(CODECS[format_name])

    def round_panel(
        rounder: Rounder, row_scales: Floats, w: Floats, moved: Floats, feedback: Floats
    ) -> Rounded:
        n, columns = w.shape
        tiles, blocks = -(-n // TILE_ROWS), columns // rounder.block
        codes, errors = np.empty((n, columns), np.uint8), np.empty((n, columns), np.float32)
        scales = np.empty((tiles, blocks, TILE_ROWS), rounder.scale_type)
        owed = np.ascontiguousarray(feedback)
        run(row_scales, w, moved, owed, codes, scales.view(np.uint8), errors)
        by_row = scales.transpose(0, 2, 1).reshape(tiles * TILE_ROWS, blocks)[:n]
        return Rounded(codes, by_row, errors)

    return round_panel


def find_row_scales(w: Floats, format_name: str) -> Floats:
    """Return the row scales (n,) of w (n, k), which plain rounding finds as well.

    Only one thread may call it at a time.
    """
    target = FORMATS[format_name]
    if target.scaling is None:
        return no_row_scales(w)
    heads, _ = target.scaling.tiles(encode(w, format_name)[0])
    return heads.ravel()[: len(w)]


def _steps(tables: Floats) -> tuple[tuple[int, ...], Floats]:
    """Return the steps of a binary search, and the middles (tables, sum of steps) it looks at."""
    middles = (tables[:, 1:] + tables[:, :-1]) / 2
    bits = middles.shape[1].bit_length()
    padded = np.full((len(tables), (1 << bits) - 1), np.inf, np.float32)
    padded[:, : middles.shape[1]] = middles
    return tuple(1 << bit for bit in reversed(range(bits))), padded


@lru_cache
def _make(codec: Codec) -> Any:
    """Make the kernel for a format.

    row_scales (n,) f32 | w, moved (n, P) f32 | feedback (P, P) f32 | codes (n, P) u8 out | scales
    (tiles, blocks, bytes of 16 scales) u8 out | errors (n, P) f32 out.
    """
    from .compile.jit import kernel, specialised
    from .simd.lanes import add, mul, sub
    from .simd.vectors import address, broadcast_f32, load_f32, store_f32

    rounder = FORMATS[codec.name].rounder
    assert rounder is not None
    choose, block, tables = codec.choose, rounder.block, rounder.tables
    steps, middles = _steps(tables)

    @specialised(kernel, codec.name)
    def owe_earlier(tile: Tile, start: int, feedback: Floats) -> None:
        """Move a block's weights by the errors of all columns before it."""
        columns = feedback.shape[1]
        for i in range(start):
            e = load_f32(address(tile.errors) + 64 * i)
            for c in range(start, start + block):
                u = broadcast_f32(address(feedback) + 4 * (columns * i + c))
                at = address(tile.now) + 64 * c
                store_f32(at, add(load_f32(at), mul(e, u)))

    @specialised(kernel, codec.name)
    def choose_scales(
        tile: Tile, start: int, feedback: Floats, scales: NDArray[np.uint8], place: int
    ) -> None:
        """Choose a block's scales for where its weights will be moved to if none is rounded."""
        columns, expected = feedback.shape[1], address(tile.expected)
        for c in range(block):
            store_f32(expected + 64 * c, load_f32(address(tile.now) + 64 * (start + c)))
        for i in range(block):
            e = sub(load_f32(address(tile.was) + 64 * (start + i)), load_f32(expected + 64 * i))
            for c in range(i + 1, block):
                u = broadcast_f32(address(feedback) + 4 * (columns * (start + i) + start + c))
                at = expected + 64 * c
                store_f32(at, add(load_f32(at), mul(e, u)))
        choose(
            expected,
            address(tile.row_scales),
            address(scales) + place * scales.shape[2],
            address(tile.factors),
            address(tile.tables),
        )

    @specialised(kernel, codec.name)
    def round_block(tile: Tile, start: int, feedback: Floats) -> None:
        """Round a block column by column; each moves those after it by its errors."""
        columns = feedback.shape[1]
        for row in range(16):
            factor = tile.factors[row]
            tile.inverses[row] = np.float32(1) / factor if factor != 0 else np.float32(0)
        for column in range(start, start + block):
            for row in range(16):
                scaled = tile.now[column, row] * tile.inverses[row]
                table, code = tile.tables[row], 0
                for step in steps:
                    code += step * (scaled > middles[table, code + step - 1])
                became = tile.factors[row] * tables[table, code]
                tile.codes[column, row] = code
                tile.errors[column, row] = tile.was[column, row] - became
            e = load_f32(address(tile.errors) + 64 * column)
            for c in range(column + 1, start + block):
                u = broadcast_f32(address(feedback) + 4 * (columns * column + c))
                at = address(tile.now) + 64 * c
                store_f32(at, add(load_f32(at), mul(e, u)))

    @specialised(kernel, codec.name)
    def round_panel(
        row_scales: Floats,
        w: Floats,
        moved: Floats,
        feedback: Floats,
        codes: NDArray[np.uint8],
        scales: NDArray[np.uint8],
        errors: Floats,
    ) -> None:
        n, columns = w.shape
        tile = Tile(
            np.zeros((columns, 16), np.float32),
            np.zeros((columns, 16), np.float32),
            np.zeros((block, 16), np.float32),
            np.zeros((columns, 16), np.uint8),
            np.zeros((columns, 16), np.float32),
            np.ones(16, np.float32),
            np.zeros(16, np.float32),
            np.zeros(16, np.float32),
            np.zeros(16, np.int32),
        )
        for number in range(scales.shape[0]):
            first, rows = 16 * number, min(16, n - 16 * number)
            if rows < 16:
                tile.was[:], tile.now[:], tile.row_scales[:] = 0, 0, 1
            for row in range(rows):
                tile.row_scales[row] = row_scales[first + row]
                for c in range(columns):
                    tile.was[c, row] = w[first + row, c]
                    tile.now[c, row] = moved[first + row, c]
            for start in range(0, columns, block):
                owe_earlier(tile, start, feedback)
                place = number * scales.shape[1] + start // block
                choose_scales(tile, start, feedback, scales, place)
                round_block(tile, start, feedback)
            for row in range(rows):
                for c in range(columns):
                    codes[first + row, c] = tile.codes[c, row]
                    errors[first + row, c] = tile.errors[c, row]

    return round_panel
