"""Reorders tiles into the blocks of ggml's types, number for number where these can hold them.

| format | type   | why nothing is lost                                                      |
| ------ | ------ | ------------------------------------------------------------------------ |
| f32    | F32    | the same                                                                 |
| bf16   | BF16   | the same                                                                 |
| q8     | Q8_0   | codes of both are whole numbers around 0, the float16 scale stays        |
| q4     | IQ4_NL | the code book is IQ4_NL's, the float16 scale stays                       |
| q4     | Q4_0   | with a code book of its own that is Q4_0's                               |
| q4     | Q8_0   | with any other code book of its own                                      |
| q6     | Q8_0   | codes of both are whole numbers around 0, the float16 scale stays        |
| others | Q8_0   | the codes stay; block x row scale is rounded to a float16, 0.02 % RMS    |

ggml's blocks have 32 columns; a matrix with a rest goes as F32, which holds every product of a code
and a scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.quant import FLOAT32, FORMATS, q4, q8
from cpumix.quant.tiles import BLOCK, GROUPS, TILE_ROWS, deinterleave, pack_scales

Bytes = NDArray[np.uint8]


class ExportType(NamedTuple):
    """A tensor type of ggml, and the function that makes its rows."""

    name: str
    code: int
    file_type: int
    """What general.file_type calls a file of it."""
    block_bytes: int
    """Of 32 columns."""
    rows: Callable[[Bytes, int, int], Bytes]
    """Tiles (tiles, blocks, tile_bytes), n, k -> (n, bytes of a row)."""


def find_type(format_name: str, columns: int, book: tuple[int, ...] | None = None) -> ExportType:
    """Return the type that a matrix of `columns` in a format of cpumix's takes.

    `book` is the matrix's own code book: with Q4_0's it is that, with others Q8_0 holds its codes.
    """
    if columns % BLOCK:
        return _widened(format_name, book)
    if book is not None:
        return _Q4_0 if book == _Q4_0_BOOK else TYPES["q8"]._replace(rows=_of_book(book))
    return TYPES.get(format_name) or TYPES["q8"]._replace(rows=_of_codes(format_name))


def _q8_0(tiles: Bytes, n: int, k: int) -> Bytes:
    count, blocks, _ = tiles.shape
    codes = deinterleave(tiles[..., : q8.CODE_BYTES].reshape(count, blocks, GROUPS, TILE_ROWS, 4))
    return _with_scales(tiles[..., q8.CODE_BYTES :], codes - np.uint8(q8.ZERO), n)


def _iq4_nl(tiles: Bytes, n: int, k: int) -> Bytes:
    half, codes = BLOCK // 2, q4.nibbles_of(tiles)
    pairs: Bytes = codes[..., :half] | codes[..., half:] << np.uint8(4)
    return _with_scales(tiles[..., q4.CODE_BYTES :], pairs, n)


def _of_book(book: tuple[int, ...]) -> Callable[[Bytes, int, int], Bytes]:
    """Return what makes rows of Q8_0 of 4-bit codes."""
    values = np.array(book, np.int8).view(np.uint8)
    return lambda tiles, n, k: _with_scales(
        tiles[..., q4.CODE_BYTES :], values[q4.nibbles_of(tiles)], n
    )


def _of_codes(format_name: str) -> Callable[[Bytes, int, int], Bytes]:
    """Return what makes rows of Q8_0 of any format whose weights are whole numbers times scales."""
    split = FORMATS[format_name].split
    assert split is not None

    def rows(tiles: Bytes, n: int, k: int) -> Bytes:
        codes, scales = split(tiles)
        return _with_scales(pack_scales(scales.astype(np.float16)), codes.view(np.uint8), n)

    return rows


def _with_scales(scales: Bytes, codes: Bytes, n: int) -> Bytes:
    """Return each block's float16 scale before its codes; codes (tiles, 16, blocks, bytes)."""
    count, _, blocks, _ = codes.shape
    halves = np.ascontiguousarray(scales).view("<u2").transpose(0, 2, 1)
    halves = np.ascontiguousarray(halves).view(np.uint8).reshape(count, TILE_ROWS, blocks, 2)
    return np.concatenate([halves, codes], axis=-1).reshape(count * TILE_ROWS, -1)[:n]


def _bfloat16(tiles: Bytes, n: int, k: int) -> Bytes:
    count, blocks, _ = tiles.shape
    pairs = tiles.view("<u2").reshape(count, blocks, BLOCK // 2, TILE_ROWS, 2)
    rows = pairs.transpose(0, 3, 1, 2, 4).reshape(count * TILE_ROWS, blocks * BLOCK)[:n, :k]
    return np.ascontiguousarray(rows).view(np.uint8)


def _float32(data: Bytes, n: int, k: int) -> Bytes:
    return data.reshape(n, 4 * k)


def _widened(format_name: str, book: tuple[int, ...] | None) -> ExportType:
    """Return F32 for a matrix in tiles."""
    if format_name == FLOAT32:
        return TYPES[FLOAT32]
    dequantize = FORMATS[format_name].dequantize
    books = () if book is None else (np.array(book, np.int8),)

    def rows(tiles: Bytes, n: int, k: int) -> Bytes:
        return np.ascontiguousarray(dequantize(tiles, n, k, *books), "<f4").view(np.uint8)

    return TYPES[FLOAT32]._replace(rows=rows)


# Codes: enum ggml_type; file types: enum llama_ftype of llama.cpp.
TYPES = {
    FLOAT32: ExportType("F32", 0, 0, 4 * BLOCK, _float32),
    "bf16": ExportType("BF16", 30, 32, 2 * BLOCK, _bfloat16),
    "q8": ExportType("Q8_0", 8, 7, 34, _q8_0),
    "q4": ExportType("IQ4_NL", 20, 25, 18, _iq4_nl),
}
_Q4_0 = ExportType("Q4_0", 2, 2, 18, _iq4_nl)  # the same layout, other values
_Q4_0_BOOK = tuple(range(-8, 8))
