"""The strings of an array in a GGUF header: found by their lengths, decoded when they are read.

Each is a uint64 length and that many bytes. A tokenizer has half a million, which a loop over them
would make the slowest part of every command that reads headers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import FormatError

LENGTH = struct.Struct("<Q")
_AHEAD = 1 << 20  # bytes that are read at once
Starts = NDArray[np.int64]  # of strings: where their lengths are; at last where the last one ends
_Part = tuple[bytes, Starts]


def read_strings(stream: BinaryIO, n: int, position: int, end: int) -> list[_Part]:
    """Read `n` strings from `position` on, or as many as end before `end`."""
    parts = []
    while n:
        stream.seek(position)
        data = stream.read(min(_AHEAD, end - position))
        starts = _find_strings(data, n)
        if len(starts) == 1 and len(data) >= LENGTH.size:  # the next alone is longer
            missing = LENGTH.size + LENGTH.unpack_from(data)[0] - len(data)
            if len(data) + missing <= end - position:
                data += stream.read(missing)
            starts = _find_strings(data, 1)
        if len(starts) == 1:
            break
        parts.append((data[: starts[-1]], starts))
        position += int(starts[-1])
        n -= len(starts) - 1
    return parts


def _find_strings(data: bytes, most: int) -> Starts:
    """Return the starts of the whole strings that `data` begins with, of at most `most`."""
    found = _find_short(data, most)
    return _find_each(data, most) if found is None else found


def _find_each(data: bytes, most: int) -> Starts:
    """Go from one string to the next."""
    starts, end, last = [0], 0, len(data) - LENGTH.size
    while len(starts) <= most and end <= last:
        end += LENGTH.size + LENGTH.unpack_from(data, end)[0]
        if end > len(data):
            break
        starts.append(end)
    return np.array(starts, np.int64)


def _find_short(data: bytes, most: int) -> Starts | None:
    """Do what `_find_each` does, ten times as fast; None where that may not be all.

    A length below 256 is a byte and seven zeros. If each such place is where the one before says
    that it ends, these are the strings: only a text with zeros in it, none at all or a long one
    break the chain.
    """
    codes = np.frombuffer(data, np.uint8)
    zeros = codes == 0
    zeros = zeros[:-1] & zeros[1:]  # two in a row
    zeros = zeros[:-2] & zeros[2:]  # four
    zeros = zeros[:-3] & zeros[3:]  # seven
    starts = np.flatnonzero(zeros[1:])[:most]
    if not len(starts) or starts[0] != 0:
        return None
    ends = starts + LENGTH.size + codes[starts]
    if not np.array_equal(ends[:-1], starts[1:]):
        return None
    return np.append(starts, ends[-1]) if ends[-1] <= len(data) else starts


class Strings(Sequence[str]):
    """An array's strings in the order of the file, all of them decoded when the first is read.

    Reading raises what `refuse(number, data)` returns for the first that is not UTF-8.
    """

    def __init__(self, parts: Sequence[_Part], refuse: Callable[[int, bytes], FormatError]) -> None:
        self._parts = parts
        self._refuse = refuse

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(len(starts) - 1 for _, starts in self._parts)

    @property
    def nbytes(self) -> int:
        """Bytes that they take in the file, with their lengths."""
        return sum(len(data) for data, _ in self._parts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return one of them, or some."""
        return self._texts[index]

    def __iter__(self) -> Iterator[str]:
        """Go through them."""
        return iter(self._texts)

    def content(self) -> bytes:
        """Return the bytes of all, one after the other, as they are in the file."""
        return b"".join(_without(data, starts, 0) for data, starts in self._parts)

    @cached_property
    def _texts(self) -> list[str]:
        texts: list[str] = []
        for data, starts in self._parts:
            texts += _decode(data, starts) or self._decode_each(data, starts, len(texts))
        return texts

    def _decode_each(self, data: bytes, starts: Starts, number: int) -> list[str]:
        """Decode one string after the other; the first is the array's `number`th."""
        texts: list[str] = []
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            found = data[start + LENGTH.size : end]
            try:
                texts.append(found.decode("utf-8"))
            except UnicodeDecodeError as e:
                raise self._refuse(number + len(texts), found) from e
        return texts


def _decode(data: bytes, starts: Starts) -> list[str] | None:
    """Do what `_decode_each` does, in one go; None for texts that have zeros or are no UTF-8."""
    codes = np.frombuffer(data, np.uint8).copy()
    codes[starts[:-1]] = 0
    marked = _without(codes, starts, 1)  # a zero before each text
    if marked.count(0) != len(starts) - 1:
        return None
    try:
        return marked.decode("utf-8").split("\0")[1:]
    except UnicodeDecodeError:
        return None


def _without(data: bytes | NDArray[np.uint8], starts: Starts, first: int) -> bytes:
    """Return strings without the bytes of their lengths, from the `first` of each on."""
    codes = np.frombuffer(data, np.uint8)
    kept = np.ones(len(codes), np.bool_)
    kept[starts[:-1, None] + np.arange(first, LENGTH.size)] = False
    return codes[kept].tobytes()
