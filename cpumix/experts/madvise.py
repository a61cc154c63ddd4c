"""The system calls that bring mapped pages into memory and give them back; one row per platform.

Pages count in three places: the system's file cache, this process's page tables, and a disk read
when they are in neither. `bring` ends with pages in both; `give_back` takes them out of both. The
calls go through ctypes, which releases the interpreter's lock, so that threads read while others
compute. MADV_RANDOM only for large pages: it reads single ones, at a twentieth of the disk's speed.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from cpumix.store.residency import LARGE_PAGE

WILLNEED, DONTNEED = 3, 4  # madvise, Linux and macOS
_NORMAL, RANDOM, HUGEPAGE, POPULATE_READ = 0, 1, 14, 22  # madvise, Linux
FADVISE_DONTNEED = 4
MS_INVALIDATE = 2  # msync, macOS: drop the cached pages of the range

_REFUSED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)  # the call, not the file


class Refused(Exception):
    """The system or file system does not know the call; reading plainly works all the same."""


class Platform(NamedTuple):
    """How one system does it; both raise Refused, or OSError when the file cannot be read."""

    bring: Callable[[int, int], None]
    """(address, nbytes): read what is missing and enter it into the page tables."""
    give_back: Callable[[int, int, int, int], None]
    """(file number, offset, address, nbytes): leave page tables and file cache."""
    bring_large: Callable[[int, int], None] | None = None
    """`bring` in large pages; None where that is no different."""


def touch(address: int, nbytes: int) -> None:
    """Read a byte of every page; works on every system, at the speed of its page faults."""
    data = (ctypes.c_uint8 * nbytes).from_address(address)
    np.add.reduce(np.frombuffer(memoryview(data), np.uint8)[:: mmap.PAGESIZE], dtype=np.uint64)


def bring_linux(address: int, nbytes: int) -> None:
    """Ask for the whole range at once, then wait for it and fill the page tables.

    Without the first call the second would read ahead past the end of the range; together they are
    a third faster than the second alone.
    """
    _madvise(address, nbytes, WILLNEED)
    _madvise(address, nbytes, POPULATE_READ)


def bring_large_linux(address: int, nbytes: int) -> None:
    """Read what can be large pages as such, and the ends as `bring_linux` does.

    Decode then takes a tenth less time: the page table entries of 4 KiB pages are themselves read
    from memory. Reading is up to twice as fast, and takes the processor a tenth of the time: a
    request to the disk lists its pages, and has room for so many. Without MADV_RANDOM two more
    large pages would be read past the end; with it to the last, the system would not see these
    pages used, and take them back first.
    """
    start = -(-address // LARGE_PAGE) * LARGE_PAGE
    end = (address + nbytes) // LARGE_PAGE * LARGE_PAGE
    if start >= end:
        bring_linux(address, nbytes)
        return
    for advice in (HUGEPAGE, RANDOM, POPULATE_READ, _NORMAL):
        _madvise(start, end - start, advice)
    for first, last in ((address, start), (end, address + nbytes)):
        if first < last:
            bring_linux(first, last - first)


def give_back_linux(fd: int, offset: int, address: int, nbytes: int) -> None:
    """Leave the page tables, then the cache; a fifth of the time that MADV_PAGEOUT takes.

    Pages that another process has mapped stay in the cache for it.
    """
    _madvise(address, nbytes, DONTNEED)
    if code := _libc("posix_fadvise")(
        fd, ctypes.c_int64(offset), ctypes.c_int64(nbytes), FADVISE_DONTNEED
    ):
        raise _error(code)  # returned, not in errno


def bring_macos(address: int, nbytes: int) -> None:
    """Start reading ahead, then touch."""
    _madvise(address, nbytes, WILLNEED)
    touch(address, nbytes)


def give_back_macos(fd: int, offset: int, address: int, nbytes: int) -> None:
    """Say that the range is done with, and drop its cached pages."""
    _madvise(address, nbytes, DONTNEED)
    _check(_libc("msync")(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), MS_INVALIDATE))


class _MemoryRange(ctypes.Structure):
    """WIN32_MEMORY_RANGE_ENTRY."""

    _fields_ = (("address", ctypes.c_void_p), ("nbytes", ctypes.c_size_t))


def bring_windows(address: int, nbytes: int) -> None:
    """Read the range in large pieces, then touch."""
    kernel = _kernel32()
    entry = _MemoryRange(address, nbytes)
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    if not kernel.PrefetchVirtualMemory(process, ctypes.c_size_t(1), ctypes.byref(entry), 0):
        raise Refused("PrefetchVirtualMemory")
    touch(address, nbytes)


def give_back_windows(fd: int, offset: int, address: int, nbytes: int) -> None:
    """Leave the working set: unlocking pages that are not locked does that, and says it failed."""
    _kernel32().VirtualUnlock(ctypes.c_void_p(address), ctypes.c_size_t(nbytes))


def give_back_nothing(fd: int, offset: int, address: int, nbytes: int) -> None:
    """Leave it all to the system."""


def bring_plainly(address: int, nbytes: int) -> None:
    """Touch: the pages come as if the program had used them."""
    touch(address, nbytes)


FALLBACK = Platform(bring_plainly, give_back_nothing)
PLATFORMS = {
    "linux": Platform(bring_linux, give_back_linux, bring_large_linux),
    "darwin": Platform(bring_macos, give_back_macos),
    "win32": Platform(bring_windows, give_back_windows),
}


def this_platform() -> Platform:
    """Return this system's row; an unknown system gets the plain one."""
    return PLATFORMS.get(sys.platform, FALLBACK)


@lru_cache(maxsize=8)
def _libc(name: str) -> Any:
    return getattr(ctypes.CDLL(None, use_errno=True), name)


@lru_cache(maxsize=1)
def _kernel32() -> Any:
    library: Any = vars(ctypes)["windll"].kernel32
    library.GetCurrentProcess.restype = ctypes.c_void_p
    return library


def _madvise(address: int, nbytes: int, advice: int) -> None:
    _check(_libc("madvise")(ctypes.c_void_p(address), ctypes.c_size_t(nbytes), advice))


def _check(result: int) -> None:
    if result != 0:
        raise _error(ctypes.get_errno())


def _error(code: int) -> Exception:
    return Refused(os.strerror(code)) if code in _REFUSED else OSError(code, os.strerror(code))
