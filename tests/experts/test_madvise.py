"""What each system is asked for: the calls are faked, except this system's own."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cpumix.experts import madvise
from cpumix.store.residency import resident_bytes

PAGES = 16
NBYTES = PAGES * mmap.PAGESIZE


@pytest.fixture
def mapped(tmp_path):
    """A mapped file: its number and its address."""
    path = tmp_path / "file"
    path.write_bytes(bytes(NBYTES))
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        map_ = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = np.frombuffer(map_, np.uint8)
        yield file.fileno(), data.ctypes.data
        del data
        map_.close()


class FakeLibrary:
    """A C library that writes down its calls, with plain numbers, and gives set answers."""

    def __init__(self, monkeypatch, **answers: int) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.answers, self.errno = answers, 0
        monkeypatch.setattr(madvise, "_libc", self.function)
        monkeypatch.setattr(ctypes, "get_errno", lambda: self.errno)

    def function(self, name: str):
        def call(*arguments: object) -> int:
            self.calls.append((name, *(getattr(a, "value", a) for a in arguments)))
            return self.answers.get(name, 0)

        return call


def test_linux_asks_for_the_range_and_then_fills_the_page_tables(monkeypatch):
    library = FakeLibrary(monkeypatch)
    madvise.bring_linux(4096, 8192)
    assert library.calls == [("madvise", 4096, 8192, 3), ("madvise", 4096, 8192, 22)]


def test_linux_brings_whole_large_pages_as_such(monkeypatch):
    """Whatever reads beyond the range would be memory that nobody counts."""
    library, large = FakeLibrary(monkeypatch), madvise.LARGE_PAGE
    madvise.bring_large_linux(large + 4096, 3 * large)
    inner = 2 * large, 2 * large
    first, last = (large + 4096, large - 4096), (4 * large, 4096)
    assert library.calls == [
        *(("madvise", *inner, number) for number in (14, 1, 22, 0)),
        *(("madvise", *end, number) for end in (first, last) for number in (3, 22)),
    ]


def test_linux_brings_less_than_a_large_page_in_small_ones(monkeypatch):
    library = FakeLibrary(monkeypatch)
    madvise.bring_large_linux(4096, madvise.LARGE_PAGE)
    assert {call[3] for call in library.calls} == {3, 22}


def test_linux_gives_back_page_tables_and_cache(monkeypatch):
    library = FakeLibrary(monkeypatch)
    madvise.give_back_linux(7, 16384, 4096, 8192)
    assert library.calls == [("madvise", 4096, 8192, 4), ("posix_fadvise", 7, 16384, 8192, 4)]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_unknown_advice_is_refused(monkeypatch, code):
    library = FakeLibrary(monkeypatch, madvise=-1)
    library.errno = code
    with pytest.raises(madvise.Refused):
        madvise.bring_linux(4096, 8192)


def test_unreadable_file_is_an_error(monkeypatch):
    library = FakeLibrary(monkeypatch, madvise=-1)
    library.errno = errno.EFAULT
    with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):
        madvise.bring_linux(4096, 8192)


def test_advice_on_the_file_returns_its_error(monkeypatch):
    FakeLibrary(monkeypatch, posix_fadvise=errno.EINVAL)
    with pytest.raises(madvise.Refused):
        madvise.give_back_linux(7, 0, 4096, 8192)


def test_macos_asks_ahead_and_touches(monkeypatch, mapped):
    library = FakeLibrary(monkeypatch)
    _, address = mapped
    madvise.bring_macos(address, NBYTES)
    assert library.calls == [("madvise", address, NBYTES, 3)]
    assert resident_bytes(address, NBYTES) in (NBYTES, None)


def test_macos_drops_cached_pages(monkeypatch):
    library = FakeLibrary(monkeypatch)
    madvise.give_back_macos(7, 16384, 4096, 8192)
    assert library.calls == [("madvise", 4096, 8192, 4), ("msync", 4096, 8192, 2)]


@pytest.fixture
def windows(monkeypatch):
    """A kernel32 that writes down the ranges it is told."""
    calls: list[tuple[object, ...]] = []

    def prefetch(process, count, entry, flags):
        memory = entry._obj
        calls.append(("prefetch", process.value, count.value, memory.address, memory.nbytes, flags))
        return windows.answer

    def unlock(address, nbytes):
        calls.append(("unlock", address.value, nbytes.value))
        return 0  # ERROR_NOT_LOCKED, as always

    windows = SimpleNamespace(
        calls=calls,
        answer=1,
        GetCurrentProcess=lambda: 2**64 - 1,
        PrefetchVirtualMemory=prefetch,
        VirtualUnlock=unlock,
    )
    monkeypatch.setattr(madvise, "_kernel32", lambda: windows)
    return windows


def test_windows_prefetches_and_touches(windows, mapped):
    _, address = mapped
    madvise.bring_windows(address, NBYTES)
    assert windows.calls == [("prefetch", 2**64 - 1, 1, address, NBYTES, 0)]
    assert resident_bytes(address, NBYTES) in (NBYTES, None)


def test_windows_without_the_call_is_refused(windows, mapped):
    windows.answer = 0
    with pytest.raises(madvise.Refused, match="PrefetchVirtualMemory"):
        madvise.bring_windows(mapped[1], NBYTES)


def test_windows_gives_back_by_unlocking(windows):
    madvise.give_back_windows(7, 16384, 4096, 8192)
    assert windows.calls == [("unlock", 4096, 8192)]


def test_each_system_has_its_row(monkeypatch):
    for name, row in madvise.PLATFORMS.items():
        monkeypatch.setattr(sys, "platform", name)
        assert madvise.this_platform() is row
    monkeypatch.setattr(sys, "platform", "plan9")
    assert madvise.this_platform() is madvise.FALLBACK


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_this_linux_brings_and_gives_back(mapped):
    fd, address = mapped
    platform = madvise.this_platform()
    try:
        platform.give_back(fd, 0, address, NBYTES)
        platform.bring(address, NBYTES)
    except madvise.Refused:
        pytest.skip("an old kernel, or a file system that takes no advice")
    assert resident_bytes(address, NBYTES) == NBYTES
    platform.give_back(fd, 0, address, NBYTES)
    if resident_bytes(address, NBYTES) == NBYTES:
        pytest.skip("this file system keeps its files in memory")
    assert resident_bytes(address, NBYTES) == 0
