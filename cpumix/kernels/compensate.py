"""The fast path of `quant.compensate`: panels of columns rounded at this process's level.

A lane is a row. The arithmetic is that of the definition, in its order, so that codes, scales and
errors equal the definition's bit for bit. One thread rounds one panel; callers give each of their
threads other rows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

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
        # Transposed, a column's 16 rows side by side: weights, what they are moved to, errors.
        was, now = np.zeros((columns, 16), np.float32), np.zeros((columns, 16), np.float32)
        wrong, expected = np.zeros((columns, 16), np.float32), np.zeros((block, 16), np.float32)
        factors, chosen = np.zeros(16, np.float32), np.zeros(16, np.int32)
        inverse, own = np.zeros(16, np.float32), np.zeros(16, np.float32)
        owed = address(feedback)
        for tile in range(scales.shape[0]):
            rows = min(16, n - 16 * tile)
            if rows < 16:
                was[:], now[:], own[:] = 0, 0, 1
            for row in range(rows):
                own[row] = row_scales[16 * tile + row]
                for c in range(columns):
                    was[c, row] = w[16 * tile + row, c]
                    now[c, row] = moved[16 * tile + row, c]
            for start in range(0, columns, block):
                for i in range(start):
                    e = load_f32(address(wrong) + 64 * i)
                    for c in range(start, start + block):
                        u = broadcast_f32(owed + 4 * (columns * i + c))
                        at = address(now) + 64 * c
                        store_f32(at, add(load_f32(at), mul(e, u)))
                for c in range(block):
                    store_f32(address(expected) + 64 * c, load_f32(address(now) + 64 * (start + c)))
                for i in range(block):
                    e = sub(
                        load_f32(address(was) + 64 * (start + i)),
                        load_f32(address(expected) + 64 * i),
                    )
                    for c in range(i + 1, block):
                        u = broadcast_f32(owed + 4 * (columns * (start + i) + start + c))
                        at = address(expected) + 64 * c
                        store_f32(at, add(load_f32(at), mul(e, u)))
                place = tile * scales.shape[1] + start // block
                choose(
                    address(expected),
                    address(own),
                    address(scales) + place * scales.shape[2],
                    address(factors),
                    address(chosen),
                )
                for row in range(16):
                    factor = factors[row]
                    inverse[row] = np.float32(1) / factor if factor != 0 else np.float32(0)
                for column in range(start, start + block):
                    for row in range(16):
                        scaled = now[column, row] * inverse[row]
                        table, code = chosen[row], 0
                        for step in steps:
                            code += step * (scaled > middles[table, code + step - 1])
                        became = factors[row] * tables[table, code]
                        wrong[column, row] = was[column, row] - became
                        if row < rows:
                            codes[16 * tile + row, column] = code
                            errors[16 * tile + row, column] = wrong[column, row]
                    e = load_f32(address(wrong) + 64 * column)
                    for c in range(column + 1, start + block):
                        u = broadcast_f32(owed + 4 * (columns * column + c))
                        at = address(now) + 64 * c
                        store_f32(at, add(load_f32(at), mul(e, u)))

    return round_panel
