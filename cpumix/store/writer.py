"""Writes a model file tensor by tensor; nothing half-written ever bears the target's name.

The header goes in last: its size is known from the start, its checksums only at the end. Until then
its place holds a journal, from which a later process knows what is done:

    offset  bytes  content
         0     16  "cpumix partial 1"
        16     32  SHA-256 of what the file is made of: the header without checksums, the source
        48      8  number of tensors done, uint64, little-endian
        56      .  their CRC-32s, uint32 each

The pages written stay in the system's page cache on purpose, so that the first run after a
conversion starts warm.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import ConvertError
from cpumix.units import format_size

from . import gguf, layout
from .layout import TensorEntry
from .partial import PartialFile, check_target

__all__ = ["ModelWriter", "TensorEntry"]

_JOURNAL = b"cpumix partial 1"
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
    ) -> None:
        self.path = Path(path)
        self._metadata = metadata
        self._entries = entries
        self._force = force
        self._resume = resume
        self._free_bytes = free_bytes
        self._crcs = np.zeros(len(entries), np.uint32)
        self._current = 0  # index of the tensor being written
        self._written = 0  # bytes of it so far
        header = self._header()
        self._signature = hashlib.sha256(header + source).digest()
        if len(header) > (limit := gguf.HEADER_LIMIT):
            raise ConvertError(
                f"tokenizer and other side files: expected at most {format_size(limit)}, "
                f"found {format_size(len(header))}. Remove what the model does not need."
            )
        self._offset = len(header)  # of the current tensor in the file
        self.nbytes = self._offset + sum(gguf.align(e.nbytes, layout.ALIGNMENT) for e in entries)
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
        """Append C-contiguous bytes to a tensor; tensors come in the order of the entries."""
        entry = self._entries[self._current] if self._current < len(self._entries) else None
        bytes_ = memoryview(data.data if isinstance(data, np.ndarray) else data).cast("B")
        if entry is None or name != entry.name or self._written + len(bytes_) > entry.nbytes:
            raise ValueError(
                f"{len(bytes_)} bytes of {name} out of turn: "
                f"next is {entry} from byte {self._written}"
            )
        self._file.write(self._offset + self._written, bytes_)
        self._crcs[self._current] = zlib.crc32(bytes_, int(self._crcs[self._current]))
        self._written += len(bytes_)
        if self._written == entry.nbytes:
            self._offset += gguf.align(entry.nbytes, layout.ALIGNMENT)
            self._current += 1
            self._written = 0
            self._file.note(self._journal())

    def commit(self) -> None:
        """Write the header and give the file its name; every tensor must be complete."""
        if self._current < len(self._entries):
            raise ValueError(
                f"{self._entries[self._current]} is not complete: {self._written} bytes so far"
            )
        self._file.write(0, memoryview(self._header()))
        check_target(self.path, self._force)  # someone else may have made it meanwhile
        self._file.publish(self._force)

    def _journal(self) -> bytes:
        """Return what is done; it is shorter than the header, whose place it takes."""
        crcs = self._crcs[: self._current].astype("<u4").tobytes()
        return _JOURNAL + self._signature + self._current.to_bytes(8, "little") + crcs

    def _read_journal(self, fd: int) -> bool:
        """Go on behind the tensors of a partial file that are done and undamaged, if any are."""
        with os.fdopen(os.dup(fd), "rb") as file:
            fixed = file.read(_FIXED_BYTES)
            count = int.from_bytes(fixed[-8:], "little")
            if fixed[:-8] != _JOURNAL + self._signature or not 0 < count <= len(self._entries):
                return False
            crcs = np.frombuffer(file.read(4 * count), "<u4")
            for entry, crc in zip(self._entries, crcs.tolist(), strict=False):
                file.seek(self._offset)
                found, left = 0, entry.nbytes
                while left:
                    piece = file.read(min(left, _CHECKED_BYTES))
                    found, left = zlib.crc32(piece, found), left - len(piece)
                if found != crc:  # not on the disk when the power went
                    break
                self._crcs[self._current] = crc
                self._offset += gguf.align(entry.nbytes, layout.ALIGNMENT)
                self._current += 1
        return self._current > 0

    def _header(self) -> bytes:
        return layout.encode_header(self._metadata, self._entries, self._crcs)
