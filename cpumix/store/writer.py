"""Writes a model file tensor by tensor; nothing half-written ever bears the target's name.

The header goes in last: its size is known from the start, its checksums only at the end. Until then
its place holds a journal, from which a later process knows what is done:

    offset  bytes  content
         0     16  "cpumix partial 2"
        16     32  SHA-256 of what the file is made of: header without checksums, source, order
        48      8  number of tensors done, uint64, little-endian
        56      .  a record of each, in the order of writing: the CRC-32 of its bytes, uint32; its
                   results, float32; the CRC-32 of these two

The pages written stay in the system's page cache on purpose, so that the first run after a
conversion starts warm.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import ConvertError
from cpumix.units import format_size

from . import gguf, layout
from .layout import TensorEntry
from .partial import PartialFile, check_target

__all__ = ["ModelWriter", "TensorEntry"]

_JOURNAL = b"cpumix partial 2"
_FIXED_BYTES = len(_JOURNAL) + 32 + 8
_CHECKED_BYTES = 16 << 20  # at a time


class ModelWriter:
    """A model file in the making; use it as a context manager and end with `commit`.

    Making the object checks that the target may be written and touches nothing; entering the
    context takes the disk space, leaving it without `commit` gives it back. Both raise
    ConvertError.

    With `resume`, entering takes over what an interrupted conversion of the same `source` (bytes
    that tell it from any other) has done, and leaving keeps what is done. `free_bytes` is what the
    disk must have free, if that is less than the file because the source shrinks meanwhile.

    Tensors come in the order of the entries, or in that of `order`, their names. `results` is
    metadata on tensors that becomes known while they are written: arrays (tensors, numbers) of
    zeros, in which the caller fills a tensor's row before its last bytes come.
    """

    def __init__(
        self,
        path: Path,
        metadata: Mapping[str, Any],
        entries: Sequence[TensorEntry],
        *,
        force: bool = False,
        resume: bool = False,
        source: bytes = b"",
        free_bytes: int | None = None,
        order: Sequence[str] | None = None,
        results: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self.path = Path(path)
        self._metadata, self._results = metadata, dict(results or {})
        self._entries = entries
        places = {entry.name: i for i, entry in enumerate(entries)}
        self._order = [places[name] for name in order or places]
        assert sorted(self._order) == list(range(len(entries)))
        self._force = force
        self._resume = resume
        self._free_bytes = free_bytes
        self._crcs = np.zeros(len(entries), np.uint32)
        self._current = 0  # place in the order of the tensor being written
        self._written = 0  # bytes of it so far
        header = self._header()
        ordered = b"" if order is None else np.array(self._order, "<u4").tobytes()
        self._signature = hashlib.sha256(header + source + ordered).digest()
        if len(header) > (limit := gguf.HEADER_LIMIT):
            raise ConvertError(
                f"tokenizer and other side files: expected at most {format_size(limit)}, "
                f"found {format_size(len(header))}. Remove what the model does not need."
            )
        sizes = [gguf.align(e.nbytes, layout.ALIGNMENT) for e in entries]
        self._offsets = list(accumulate(sizes, initial=len(header)))
        self.nbytes = self._offsets[-1]
        """Size of the whole file."""
        check_target(self.path, force)

    def __enter__(self) -> ModelWriter:
        """Take the disk space, after removing or taking over what killed conversions left."""
        accepts = self._read_journal if self._resume else None
        self._file = PartialFile(self.path, self.nbytes, accepts, self._free_bytes)
        return self

    @property
    def done(self) -> int:
        """How many tensors are complete."""
        return self._current

    @property
    def finished(self) -> set[str]:
        """The names of those that are complete now."""
        return {self._entries[place].name for place in self._order[: self._current]}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave nothing behind, unless committed, or interrupted and to be resumed."""
        if self._resume and self._current:
            self._file.keep()
        else:
            self._file.discard()

    def write(self, name: str, data: bytes | memoryview | NDArray[Any]) -> None:
        """Append C-contiguous bytes to a tensor; tensors come in their order."""
        place = self._order[self._current] if self._current < len(self._order) else -1
        entry = self._entries[place] if place >= 0 else None
        bytes_ = memoryview(data.data if isinstance(data, np.ndarray) else data).cast("B")
        if entry is None or name != entry.name or self._written + len(bytes_) > entry.nbytes:
            raise ValueError(
                f"{len(bytes_)} bytes of {name} out of turn: "
                f"next is {entry} from byte {self._written}"
            )
        self._file.write(self._offsets[place] + self._written, bytes_)
        self._crcs[place] = zlib.crc32(bytes_, int(self._crcs[place]))
        self._written += len(bytes_)
        if self._written == entry.nbytes:
            self._written = 0
            self._note()

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return the bytes of a tensor that is done."""
        place = next(i for i in self._order[: self._current] if self._entries[i].name == name)
        data = self._file.read(self._offsets[place], self._entries[place].nbytes)
        return np.frombuffer(data, np.uint8)

    def commit(self) -> None:
        """Write the header and give the file its name; every tensor must be complete."""
        if self._current < len(self._entries):
            raise ValueError(
                f"{self._entries[self._order[self._current]]} is not complete: "
                f"{self._written} bytes so far"
            )
        self._file.write(0, memoryview(self._header()))
        check_target(self.path, self._force)  # someone else may have made it meanwhile
        self._file.publish(self._force)

    def _note(self) -> None:
        """Write to the journal that the current tensor is done."""
        record = self._record(self._order[self._current])
        self._file.note(_FIXED_BYTES + self._current * len(record), record)
        self._current += 1
        count = self._current.to_bytes(8, "little")
        self._file.note(0, _JOURNAL + self._signature + count)

    def _record(self, place: int) -> bytes:
        """Return a tensor's record; all are shorter than the header, whose place they take."""
        results = b"".join(x[place].astype("<f4").tobytes() for x in self._results.values())
        record: bytes = int(self._crcs[place]).to_bytes(4, "little") + results
        return record + zlib.crc32(record).to_bytes(4, "little")

    def _read_journal(self, fd: int) -> bool:
        """Go on behind the tensors of a partial file that are done and undamaged, if any are."""
        with os.fdopen(os.dup(fd), "rb") as file:
            fixed = file.read(_FIXED_BYTES)
            count = int.from_bytes(fixed[-8:], "little")
            if fixed[:-8] != _JOURNAL + self._signature or not 0 < count <= len(self._entries):
                return False
            size = len(self._record(0))
            records = [file.read(size) for _ in range(count)]
            for place, record in zip(self._order, records, strict=False):
                crc = int.from_bytes(record[:4], "little")
                sound = zlib.crc32(record[:-4]) == int.from_bytes(record[-4:], "little")
                nbytes = self._entries[place].nbytes
                if not sound or _crc_of(file, self._offsets[place], nbytes) != crc:
                    break  # not on the disk when the power went
                self._crcs[place], start = crc, 4
                for x in self._results.values():
                    x[place] = np.frombuffer(record, "<f4", x.shape[1], start)
                    start += 4 * x.shape[1]
                self._current += 1
        return self._current > 0

    def _header(self) -> bytes:
        results = {key: x.ravel() for key, x in self._results.items()}
        return layout.encode_header({**self._metadata, **results}, self._entries, self._crcs)


def _crc_of(file: BinaryIO, offset: int, nbytes: int) -> int:
    """Return the CRC-32 of bytes of a file."""
    file.seek(offset)
    crc, left = 0, nbytes
    while left:
        piece = file.read(min(left, _CHECKED_BYTES))
        crc, left = zlib.crc32(piece, crc), left - len(piece)
    return crc
