"""Tiles of weights that are codes and scales already: nothing is searched, nothing rounded.

The input is whole numbers -127 to 127 and a float16 scale for each block of 32 columns, as
quantized checkpoints have them. Whether a format can hold them depends on the numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from . import q4, q8
from .q8 import inverse
from .rounder import in_tiles, scales_in_tiles
from .tiles import BLOCK, to_blocks

Bytes = NDArray[np.uint8]
Codes = NDArray[np.int8]


def find_book(values: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the code book that holds these values, None if it is q4's own or none can."""
    if set(values) <= set(q4.CODE_BOOK.tolist()):
        return None
    fits = 0 < len(values) <= len(q4.CODE_BOOK) and -127 <= values[0] and values[-1] <= 127
    return values + values[-1:] * (len(q4.CODE_BOOK) - len(values)) if fits else None


def to_tiles(
    format_name: str,
    codes: Codes,
    scales: NDArray[np.float16],
    book: Codes = q4.CODE_BOOK,
) -> Bytes | None:
    """Return the tiles of `codes` (n, k) times `scales` (n, k / 32); None if they are not exact.

    `book` is the tensor's code book, in formats that have one.
    """
    pack = _PACKERS.get(format_name)
    return None if pack is None else pack(codes, scales, book)


def round_to_book(rows: NDArray[np.float32], book: Codes) -> Bytes:
    """Return the tiles of q4 whose values of a code book are nearest to `rows` (n, k).

    For the few rows of a tensor with a book of its own that it does not hold exactly: the scale
    follows from each block's largest weight and is not searched.
    """
    x = to_blocks(rows)
    scale = (np.abs(x).max(-1) / np.float32(np.abs(book.astype(np.int16)).max())).astype(np.float16)
    values = np.sort(book.astype(np.float32))
    nearest = np.searchsorted((values[1:] + values[:-1]) / 2, x * inverse(scale)[..., None])
    nibbles = np.argsort(book, kind="stable")[nearest].astype(np.uint8)
    return q4.pack(nibbles, scale)


def _to_q8(codes: Codes, scales: NDArray[np.float16], _: Codes) -> Bytes:
    stored = in_tiles(codes.view(np.uint8) + np.uint8(q8.ZERO), BLOCK, q8.ZERO)
    return q8.pack(stored, scales_in_tiles(scales))


def _to_q4(codes: Codes, scales: NDArray[np.float16], book: Codes) -> Bytes | None:
    nibble_of = np.full(256, 255, np.uint8)  # by a code's byte; 255 where the book has none
    nibble_of[book[::-1].view(np.uint8)] = np.arange(len(book))[::-1]
    # bytes.translate looks bytes up ten times as fast as an array's index.
    found = codes.tobytes().translate(nibble_of.tobytes())
    nibbles = np.frombuffer(found, np.uint8).reshape(codes.shape)
    if nibbles.size and nibbles.max() > 15:
        return None
    rest = int(np.abs(book.astype(np.int16)).argmin())
    return q4.pack(in_tiles(nibbles, BLOCK, rest), scales_in_tiles(scales))


EXACT_FORMATS = ("q8", "q4")
_PACKERS: dict[str, Callable[[Codes, NDArray[np.float16], Codes], Bytes | None]] = {
    "q8": _to_q8,
    "q4": _to_q4,
}
