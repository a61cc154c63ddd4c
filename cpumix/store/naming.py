"""Gives a finished file its name without ever replacing another one."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_HERE, _NO_REPLACE = -100, 1  # AT_FDCWD and RENAME_NOREPLACE of Linux
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file; FileExistsError if there is a target, even one made at this very moment."""
    if sys.platform == "win32":
        os.rename(source, target)  # which replaces nothing there
        return
    for rename in (_rename_unless_there, _link, _claim):
        try:
            return rename(source, target)
        except OSError as e:  # what a file system cannot do, the next way may
            if e.errno not in _CANNOT or rename is _claim:
                raise


def _rename_unless_there(source: Path, target: Path) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = os.fsencode(source), os.fsencode(target)
    if library.renameat2(_HERE, names[0], _HERE, names[1], _NO_REPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def _link(source: Path, target: Path) -> None:
    os.link(source, target)
    os.unlink(source)


def _claim(source: Path, target: Path) -> None:
    """Make an empty target first: whoever made it may replace it."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.replace(source, target)
