"""A file whose bytes are read at any place, whether it is here or elsewhere.

Containers parse heads through it: so one parser serves a file on the disk and one on the hub.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cpumix.input_file import regular

from .files import read_into, refuse_pointer, unreadable

_AHEAD = 1 << 20  # bytes that a stream reads at a time: a head mostly has less


class RandomAccess(Protocol):
    """The bytes of one file."""

    @property
    def path(self) -> Path:
        """Where it is, or will be; errors say it."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on, or fewer at the end. Raises ConvertError."""


@dataclass(frozen=True)
class FileBytes:
    """Those of a file that `fill`, such as `files.read_into`, reads."""

    path: Path
    size: int
    fill: Callable[[Path, int, memoryview], None]

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on, or fewer at the end of the file."""
        out = bytearray(max(0, min(count, self.size - offset)))
        if out:
            self.fill(self.path, offset, memoryview(out))
        return bytes(out)


def open_local(path: Path) -> RandomAccess:
    """Return a file on the disk. Raises ConvertError if it is a git-lfs pointer or unreadable."""
    try:
        with open(path, "rb", opener=regular) as file:
            refuse_pointer(path, file.read(64))
            size = os.fstat(file.fileno()).st_size
    except OSError as e:
        raise unreadable(path, e) from e
    return FileBytes(path, size, read_into)


class FileStream(io.BufferedReader):
    """The same bytes as a stream, for parsers that want one."""

    def __init__(self, file: RandomAccess) -> None:
        super().__init__(_RawStream(file), _AHEAD)


class _RawStream(io.RawIOBase):
    def __init__(self, file: RandomAccess) -> None:
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = at
        return at

    def readinto(self, out: Any) -> int:
        data = self._file.read(self._at, len(out))
        out[: len(data)] = data
        self._at += len(data)
        return len(data)
