"""A temporary file beside its target, which becomes the target in one step or leaves nothing.

Of a size that is known beforehand, which the disk is asked for at once; owns every sentence about a
disk that refuses. What a killed process left, the next one for the same target removes, or goes on
with.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from cpumix.errors import ConvertError
from cpumix.units import format_size

from .layout import ALIGNMENT
from .naming import rename_new
from .residency import LARGE_PAGE
from .temporary import create, open_unlocked, remove_stale, sync_folder, temporary_files

_WRITE_BYTES = 64 << 20  # one system call takes at most 2 GiB, on macOS it fails above
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # fallocate on some file systems


def check_target(target: Path, force: bool) -> None:
    """Raise ConvertError if `target` cannot be made or may not be replaced; touches nothing."""
    if not os.path.isdir(target.parent):
        raise ConvertError(
            f'target: expected an existing folder around it, found none at "{target.parent}". '
            "Create it first."
        )
    if not os.path.lexists(target):
        return
    if os.path.isdir(target):
        raise ConvertError(
            f'target: expected the name of a file to write, found a folder at "{target}". '
            f'Name a file in it, such as "{target / "model.cpumix"}".'
        )
    if not stat.S_ISREG(os.stat(target, follow_symlinks=False).st_mode):
        raise ConvertError(
            f'target: expected a new name or a regular file, found a link or device at "{target}". '
            "Name another target."
        )
    if not force:
        raise _exists(target)


def _exists(target: Path) -> ConvertError:
    return ConvertError(
        f'target: expected a new name, found an existing file at "{target}". '
        "Use --force to replace it, or name another target."
    )


class PartialFile:
    """A locked temporary file of `nbytes` bytes for `target`, until `publish` or `discard`.

    Bytes that are never written are zeros. Raises ConvertError when the disk refuses; a file that
    could not be made to the end is gone by then. `accepts` is asked of each file of this size that
    a dead process left, by its descriptor: the first accepted one is taken instead of a new one.
    With `free_bytes`, so much must be free on the disk, and none is taken beforehand: the rest
    becomes free while the file grows.
    """

    def __init__(
        self,
        target: Path,
        nbytes: int,
        accepts: Callable[[int], bool] | None = None,
        free_bytes: int | None = None,
    ) -> None:
        self.target = target
        self.nbytes = nbytes
        self._path: Path | None = None  # of the temporary file, while there is one
        self._fd = -1
        self._start, self._tail = -1, bytearray()  # where a large page begins, and what is there
        adopted = accepts is not None and self._adopt(accepts)
        remove_stale(target)
        if adopted:
            return
        free = shutil.disk_usage(target.parent).free
        need = nbytes if free_bytes is None else free_bytes
        if free < need:
            raise ConvertError(
                f"disk space: {format_size(need)} needed, {format_size(free)} free, for "
                f'"{target}". Free {format_size(need - free)}, or name a target on another disk.'
            )
        try:
            self._fd, self._path = create(target)
            self._allocate(at_once=free_bytes is None)
        except OSError as e:
            self.discard()
            raise self._explained(e) from e
        except BaseException:
            self.discard()
            raise

    def _adopt(self, accepts: Callable[[int], bool]) -> bool:
        """Take over a file that a dead process left; False if there is none that will do."""
        for path in temporary_files(self.target):
            with contextlib.suppress(OSError):
                fd = open_unlocked(path)
                if os.fstat(fd).st_size == self.nbytes and accepts(fd):
                    self._fd, self._path = fd, path
                    return True
                os.close(fd)
        return False

    def _allocate(self, at_once: bool) -> None:
        """Take the space now: contiguous, and a disk that fills up meanwhile shows at once."""
        if at_once and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._fd, 0, self.nbytes)
            except OSError as e:
                if e.errno not in _NOT_SUPPORTED:
                    raise
        os.ftruncate(self._fd, self.nbytes)

    def write(self, offset: int, data: memoryview) -> None:
        """Write bytes at an offset.

        Bytes that follow each other are written by whole large pages: so the system keeps them in
        such, and a run that finds them in its cache is as fast as one that reads them itself.
        Between two that follow each other may be padding: fewer bytes than tensors are aligned to.
        """
        gap = offset - (self._start + len(self._tail))
        if self._start >= 0 and 0 <= gap < ALIGNMENT:
            self._tail += bytes(gap)
        else:
            self._flush()
            self._start = offset
        missing = -(self._start + len(self._tail)) % LARGE_PAGE
        self._tail += data[:missing]
        if len(data) >= missing:
            self._flush()
            whole = (len(data) - missing) // LARGE_PAGE * LARGE_PAGE
            self._put(self._start, data[missing : missing + whole])
            self._start += whole
            self._tail += data[missing + whole :]

    def note(self, offset: int, data: bytes) -> None:
        """Write bytes at once, whatever is being written elsewhere."""
        self._put(offset, memoryview(data))

    def read(self, offset: int, nbytes: int) -> bytearray:
        """Return bytes that were written. Raises ConvertError when the disk refuses."""
        self._flush()
        found = bytearray()
        try:
            os.lseek(self._fd, offset, os.SEEK_SET)
            while piece := os.read(self._fd, min(nbytes - len(found), _WRITE_BYTES)):
                found += piece
        except OSError as e:
            raise self._explained(e) from e
        return found

    def _flush(self) -> None:
        if self._tail:
            self._put(self._start, memoryview(bytes(self._tail)))
        self._start += len(self._tail)
        self._tail.clear()

    def _put(self, offset: int, data: memoryview) -> None:
        try:
            os.lseek(self._fd, offset, os.SEEK_SET)
            while data:
                data = data[os.write(self._fd, data[:_WRITE_BYTES]) :]
        except OSError as e:
            raise self._explained(e) from e

    def publish(self, replace: bool = False) -> None:
        """Bring the bytes to the disk and give the file its name, whole, in one step.

        Raises ConvertError if another file has got the name meanwhile, unless `replace`.
        """
        assert self._path is not None
        self._flush()
        try:
            os.fsync(self._fd)
            if sys.platform == "win32":  # an open file cannot be renamed there
                self._close()
            if replace:
                os.replace(self._path, self.target)
            else:
                rename_new(self._path, self.target)
        except FileExistsError as e:
            raise _exists(self.target) from e
        except OSError as e:
            raise self._explained(e) from e
        self._path = None
        self._close()
        sync_folder(self.target.parent)

    def keep(self) -> None:
        """Leave the file as it is, for a later process to go on with."""
        if self._path is not None:
            with contextlib.suppress(ConvertError):
                self._flush()
        self._path = None
        self._close()

    def discard(self) -> None:
        """Remove the file, unless it is published, kept or discarded already."""
        self._close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._path = None

    def _close(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

    def _explained(self, e: OSError) -> ConvertError:
        """Turn what the system says about the disk into a sentence."""
        need = format_size(self.nbytes)
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            return ConvertError(
                f'disk space: {need} needed, the disk or quota is full, for "{self.target}". '
                "Free some, or name a target on another disk."
            )
        if e.errno == errno.EFBIG:
            return ConvertError(
                f"file size: {need} needed, the file system or this process's limit (ulimit -f) "
                f'allows less, for "{self.target}". Raise it, or name a target on another disk.'
            )
        return ConvertError(
            f'target: the system refuses to write "{self.target}": {e.strerror or e}. '
            "Name a target in another folder."
        )
