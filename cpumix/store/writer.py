"""Writes a model file tensor by tensor; nothing half-written ever bears the target's name.

The header goes in last: its size is known from the start, its checksums only at the end. The pages
written stay in the system's page cache on purpose, so that the first run after a conversion starts
warm.
"""

from __future__ import annotations

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


class ModelWriter:
    """A model file in the making; use it as a context manager and end with `commit`.

    Making the object checks that the target may be written and touches nothing; entering the
    context takes the disk space, leaving it without `commit` gives it back. Both raise
    ConvertError.
    """

    def __init__(
        self,
        path: Path,
        metadata: Mapping[str, Any],
        entries: Sequence[TensorEntry],
        *,
        force: bool = False,
    ) -> None:
        self.path = Path(path)
        self._metadata = metadata
        self._entries = entries
        self._force = force
        self._crcs = np.zeros(len(entries), np.uint32)
        self._current = 0  # index of the tensor being written
        self._written = 0  # bytes of it so far
        header = self._header()
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
        """Take the disk space, after removing what killed conversions left."""
        self._file = PartialFile(self.path, self.nbytes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave nothing behind, unless committed."""
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

    def commit(self) -> None:
        """Write the header and give the file its name; every tensor must be complete."""
        if self._current < len(self._entries):
            raise ValueError(
                f"{self._entries[self._current]} is not complete: {self._written} bytes so far"
            )
        self._file.write(0, memoryview(self._header()))
        check_target(self.path, self._force)  # someone else may have made it meanwhile
        self._file.publish()

    def _header(self) -> bytes:
        return layout.encode_header(self._metadata, self._entries, self._crcs)
