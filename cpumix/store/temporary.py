"""Temporary files beside their targets: named, locked, and removed when their processes are dead.

A killed process leaves `.TARGET.xxxxxxxx.partial`. Whether its owner still lives is asked of a lock
on the file, which the system drops with the process: unlike a process number it cannot be reused
and means the same in every container. On Windows an open file cannot be deleted, which serves the
same end. What the system refuses is an OSError here; callers say what it was for.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """Yield a file that becomes `target` in one step when the block ends, or else leaves nothing.

    Its `name` is its path until then.
    """
    fd, path = create(target)
    try:
        with open(path, "wb", opener=lambda name, flags: fd) as file:
            yield file
            file.flush()
            os.fsync(fd)
            if sys.platform != "win32":  # where an open file cannot be renamed
                os.replace(path, target)
        if sys.platform == "win32":
            os.replace(path, target)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def create(target: Path) -> tuple[int, Path]:
    """Make and lock a temporary file for `target`; return its descriptor and its path."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        fd = os.open(path, flags, 0o666)
        if sys.platform == "win32":
            return fd, path
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_nlink:
            return fd, path
        os.close(fd)  # another process took it for stale before the lock


def temporary_files(target: Path) -> list[Path]:
    """Return the temporary files for `target`, whoever owns them."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.partial")
    with contextlib.suppress(OSError):
        return sorted(path for path in target.parent.iterdir() if ours.fullmatch(path.name))
    return []


def open_unlocked(path: Path) -> int:
    """Open and lock a temporary file. Raises OSError if its process lives."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    fd = os.open(path, flags)
    if sys.platform != "win32":
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
    return fd


def remove_stale(target: Path) -> None:
    """Remove the temporary files for `target` whose processes are dead."""
    for path in temporary_files(target):
        with contextlib.suppress(OSError):  # in use, another user's, or gone already: leave it
            if sys.platform == "win32":
                path.unlink()
                continue
            fd = open_unlocked(path)
            try:
                path.unlink()
            finally:
                os.close(fd)


def sync_folder(folder: Path) -> None:
    """Bring a new name to the disk; some systems cannot, and do not need it."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fd = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
