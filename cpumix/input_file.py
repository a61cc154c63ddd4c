"""Opens what users name as input: files, so that nothing waits for a pipe or reads without end.

What is wrong with a file is an OSError here, whose `strerror` the caller puts into a sentence; with
a text it is the sentence.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from cpumix.errors import ConfigError
from cpumix.units import MIB, format_size

MOST_TEXT = 256 * MIB  # of a prompt, a text to score, a grammar
MOST_SIDE_FILE = 256 * MIB  # of a tokenizer and what belongs to it; the largest known have 35
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def regular(path: str, flags: int) -> int:
    """Open a regular file: the `opener` of `open`. Raises OSError for a pipe or device."""
    fd = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if kind in _KINDS:
        os.close(fd)
        raise OSError(errno.EINVAL, f"expected a regular file, found {_KINDS[kind]}", path)
    return fd


def _regular_or_pipe(path: str, flags: int) -> int:
    """Open what shells make of <(COMMAND), too."""
    fd = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        return regular(path, flags)
    os.set_blocking(fd, True)  # only opening must not wait for somebody who writes
    return fd


def read_input(path: Path, most: int = MOST_SIDE_FILE) -> bytes:
    """Return all of a regular file. Raises OSError if it is none, or has more than `most` bytes."""
    with open(path, "rb", opener=regular) as file:
        return read_stream(file, most)


def read_text_input(path: Path) -> bytes:
    """Return all of a file or pipe with text for a model. Raises OSError as `read_input` does."""
    with open(path, "rb", opener=_regular_or_pipe) as file:
        return read_stream(file, MOST_TEXT)


def read_text(path: Path, what: str = "text", advice: str = "") -> str:
    """Return the text in a file; errors call it `what`.

    Raises ConfigError if it cannot be read, or is not text: then with `advice`, one sentence.
    """
    try:
        data = read_text_input(path)
    except OSError as error:
        raise ConfigError(f'{what}: cannot be read ({error.strerror}): "{path}".') from error
    return decode(data, f'{what} "{path}"', advice)


def decode(data: bytes, where: str, advice: str = "") -> str:
    """Return a text without the mark of Windows' editors. Raises ConfigError if it is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: expected UTF-8 text, found byte 0x{data[error.start]:02x} "
            f"at position {error.start}.{advice and ' ' + advice}"
        ) from error


def read_stream(stream: BinaryIO, most: int = MOST_TEXT) -> bytes:
    """Return what is left in a stream. Raises OSError if that is more than `most` bytes."""
    data = b""
    while len(data) <= most and (piece := stream.read(max(len(data), MIB))):
        data += piece
    if len(data) > most:
        raise OSError(errno.EFBIG, f"expected at most {format_size(most)}, found more")
    return data
