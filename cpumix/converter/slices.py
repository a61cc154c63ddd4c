"""Rows of a tensor on their way to the model file: cut, read, rounded, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.checkpoint import Checkpoint, SourceTensor
from cpumix.checkpoint.matrix import Coded, widen
from cpumix.errors import ConvertError
from cpumix.kernels.encode import INFINITE, encode, largest_bits
from cpumix.quant import FLOAT32, exact
from cpumix.quant import nbytes as tensor_bytes
from cpumix.quant.bf16 import to_float32
from cpumix.quant.tiles import BLOCK, TILE_ROWS
from cpumix.store import TensorEntry

from .losses import Losses, Sample

SLICE_BYTES = 32 << 20  # of the source; a few of them are in memory at a time
BF16_INFINITE = 0x7F7F8000  # a magnitude's float32 bits: bfloat16 rounds it to infinity
# The largest float16 scale times 64: int4 gives a block's largest weight a code of 88 and more, and
# its fitted scale is within 1.3 of what that needs.
_LARGEST = 65504.0 * 64
LARGEST_VECTOR = 1e9  # of norms, routers and biases: what they scale is squared in float32


Encode = Callable[[NDArray[Any], str], tuple[NDArray[np.uint8], int]]
"""What `kernels.encode.encode` does: rows, a format -> tiles, the largest magnitude's bits."""


class Slice(NamedTuple):
    """Some rows of a source tensor, and the tensor of the model file that they go to."""

    entry: TensorEntry
    format: str
    """Of these rows; of an expert's parts not always the same."""
    source: SourceTensor
    start: int
    stop: int


def cut(checkpoint: Checkpoint, entries: list[TensorEntry]) -> Iterator[Slice]:
    """Yield the slices of all tensors, in the order of the model file."""
    for entry in entries:
        for name, kind in entry.parts:
            source = checkpoint.tensors[name]
            columns = source.shape[1] if len(source.shape) == 2 else 1
            step = max(1, SLICE_BYTES // (columns * 4) // 16) * 16  # whole tiles
            for start in range(0, source.shape[0], step):
                yield Slice(entry, kind, source, start, min(start + step, source.shape[0]))


def target_bytes(s: Slice) -> int:
    """Return what a slice takes in the model file."""
    return tensor_bytes(s.format, (s.stop - s.start, *s.source.shape[1:]))


def source_bytes(s: Slice) -> int:
    """Return what a slice takes in the checkpoint."""
    return int(s.source.nbytes * (s.stop - s.start) // s.source.shape[0])


def read(s: Slice) -> NDArray[Any] | Coded:
    """Return a slice as codes if its format can hold them, else as numbers."""
    codes = s.source.read_codes(s.start, s.stop) if s.format in exact.EXACT_FORMATS else None
    return s.source.read_rows(s.start, s.stop) if codes is None else codes


def convert_slice(
    s: Slice, rows: NDArray[Any] | Coded, losses: Losses, encode: Encode = encode
) -> tuple[NDArray[Any], Sample]:
    """Return a slice's bytes in the model file, and what the first one of a tensor has lost.

    `encode` rounds what is not kept exactly. Raises ConvertError for weights that are not numbers.
    """
    part = "the rest" if s.entry.spec.expert is None else "experts"
    key = (part, s.source.encoding, s.format)
    is_first = s.start == 0
    if isinstance(rows, Coded):
        tiles = exact.to_tiles(s.format, *rows, *book_of(s))
        if tiles is not None:
            return tiles, losses.add(key, is_first, None, tiles)
        rows = to_numbers(rows)
    data = _round(s, rows, encode)
    is_same = s.format == FLOAT32 or (s.format == "bf16" and rows.dtype == np.uint16)
    before = None if is_same else widen(np.atleast_2d(rows)[:TILE_ROWS])
    return data, losses.add(key, is_first, before, data, *book_of(s))


def rows_of(rows: NDArray[Any] | Coded, start: int, stop: int) -> NDArray[Any] | Coded:
    """Return some rows of what `read` gave."""
    if isinstance(rows, Coded):
        return Coded(rows.codes[start:stop], rows.scales[start:stop])
    return rows[start:stop]


def to_numbers(rows: NDArray[Any] | Coded) -> NDArray[Any]:
    """Return what `read` gave as numbers, if it is not that already."""
    if isinstance(rows, Coded):
        return rows.codes * rows.scales.astype(np.float32).repeat(BLOCK, axis=1)
    return rows


def book_of(s: Slice) -> tuple[NDArray[np.int8], ...]:
    """Return the code book of a slice's tensor, nothing if it has none of its own."""
    return () if s.entry.book is None else (np.array(s.entry.book, np.int8),)


def _round(s: Slice, rows: NDArray[Any], encode: Encode) -> NDArray[Any]:
    """Return rows in the format of their tensor."""
    rows = np.atleast_2d(rows)
    if rows.dtype == np.float16:
        rows = rows.astype(np.float32)
    if s.format == FLOAT32:
        wide = to_float32(rows) if rows.dtype == np.uint16 else rows
        largest = largest_bits(wide)
        data: NDArray[Any] = np.ascontiguousarray(wide)
    else:
        data, largest = encode(rows, s.format)
        if s.entry.book is not None and largest < INFINITE:
            data = exact.round_to_book(widen(rows), *book_of(s))
    what = f'tensor "{s.source.source_name}"'
    if largest >= (BF16_INFINITE if s.format == "bf16" else INFINITE):
        raise ConvertError(
            f"{what}: expected finite weights, found NaN or infinity between rows {s.start} and "
            f'{s.stop - 1}. The checkpoint is damaged: download it again. File "{s.source.path}".'
        )
    magnitude = float(np.uint32(largest).view(np.float32))
    if s.format == FLOAT32 and magnitude > LARGEST_VECTOR:
        raise ConvertError(
            f"{what}: expected numbers of a norm, router or bias up to {LARGEST_VECTOR:.0e}, found "
            f"{magnitude:.3g}. The checkpoint is damaged: download it again. "
            f'File "{s.source.path}".'
        )
    if s.format not in ("bf16", FLOAT32) and magnitude > _LARGEST:
        raise ConvertError(
            f"{what}: expected weights up to {_LARGEST:.3g}, which 8 and 4 bits can scale, "
            f'found {magnitude:.3g}. Use --precision bf16. File "{s.source.path}".'
        )
    return data
