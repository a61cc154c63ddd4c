"""Measures how fast memory and disk can be read: once a month, in about half a second.

Memory: the largest of 256 MiB of bytes, by every core, which NumPy finds as fast as memory comes.
Disk: 64 MiB past the page cache, from the model itself if it is there, else from a scratch file.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cpumix.cache_dir import cache_folder, cache_roots
from cpumix.machine import machine_info
from cpumix.units import MIB

from .speed import ASSUMED, Bandwidths

MEMORY_BYTES = 256 * MIB  # more than any cache holds
DISK_BYTES = 64 * MIB
REQUEST = 4 * MIB
READERS = 4  # requests on their way at a time
ROUNDS = 5
FRESH_SECONDS = 30 * 86400.0
_FILE = "bandwidths.json"


def find_bandwidths(model: Path | None, *, measure: bool = True) -> Bandwidths:
    """Return this machine's bandwidths, measuring those that are not on record.

    `model`: a file or folder on the disk that counts. With `measure` false nothing is measured or
    looked up. What cannot be measured is assumed.
    """
    if not measure:
        return ASSUMED
    with _Record() as record:
        memory = record.find(f"memory, {machine_info().physical_cores} cores", memory_bandwidth)
        place = _largest_file(model)
        device = _device(place or _scratch_folder())
        disk = record.find(f"disk, device {device}", lambda: disk_bandwidth(place))
    return Bandwidths(
        memory or ASSUMED.memory, disk or ASSUMED.disk, memory is not None, disk is not None
    )


def memory_bandwidth() -> float:
    """Return the bytes a second that all cores together read from memory."""
    cores = machine_info().physical_cores
    with ThreadPoolExecutor(cores) as pool:
        parts = np.array_split(np.empty(MEMORY_BYTES, np.uint8), cores)
        list(pool.map(lambda part: part.fill(1), parts))  # pages must exist, on their core's node
        return MEMORY_BYTES / min(
            _seconds(lambda: list(pool.map(np.ndarray.max, parts))) for _ in range(ROUNDS)
        )


def disk_bandwidth(path: Path | None) -> float | None:
    """Return the bytes a second that come from a file, or from one made for it; None if unknown."""
    try:
        with contextlib.ExitStack() as stack:
            if path is None:
                path = stack.enter_context(_made_file())
            return _read_bandwidth(path)
    except OSError:
        return None


def _read_bandwidth(path: Path) -> float | None:
    direct = getattr(os, "O_DIRECT", 0)
    try:
        file = os.open(path, os.O_RDONLY | direct)
    except OSError:  # a filesystem that reads through the page cache only, such as tmpfs
        return None
    try:
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(file, fcntl.F_NOCACHE, 1)
        elif not direct:
            return None
        size = min(os.fstat(file).st_size, DISK_BYTES) // REQUEST * REQUEST
        starts = range(0, size, REQUEST)

        def read(start: int) -> int:
            with mmap.mmap(-1, REQUEST) as buffer:  # direct reads want whole pages
                return os.preadv(file, [buffer], start)

        with ThreadPoolExecutor(READERS) as pool:
            began = time.perf_counter()
            done = sum(pool.map(read, starts))
            seconds = time.perf_counter() - began
        return done / seconds if done else None
    finally:
        os.close(file)


@contextlib.contextmanager
def _made_file() -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(dir=_scratch_folder(), prefix="probe-") as file:
        block = os.urandom(REQUEST)  # not zeros: some disks would compress them away
        for _ in range(0, DISK_BYTES, REQUEST):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        yield Path(file.name)


def _largest_file(model: Path | None) -> Path | None:
    """Return the largest file of a model that is large enough to read, if there is one."""
    if model is None:
        return None
    files = [model] if model.is_file() else [p for p in model.iterdir() if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size, default=None)
    if largest is None or largest.stat().st_size < DISK_BYTES:
        return None
    return largest


def _scratch_folder() -> Path:
    """Return a folder of ours that exists, or at least the system's for temporary files."""
    for root in cache_roots():
        if folder := cache_folder(root):
            return folder
    return Path(tempfile.gettempdir())


def _device(path: Path) -> int:
    return path.stat().st_dev


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class _Record:
    """What has been measured on this machine, in a small file."""

    def __init__(self) -> None:
        self._path = _scratch_folder() / _FILE
        self._changed = False
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            found = {}
        self._values: dict[str, Any] = found if isinstance(found, dict) else {}

    def find(self, key: str, measure: Callable[[], float | None]) -> float | None:
        """Return a bandwidth on record, or measure it now."""
        known = self._values.get(key)
        if isinstance(known, dict):
            value, at = known.get("bytes_per_second"), known.get("at")
            if isinstance(value, float) and isinstance(at, float):
                if value > 0 and abs(time.time() - at) < FRESH_SECONDS:
                    return value
        measured = measure()
        if measured is not None:
            self._values[key] = {"bytes_per_second": measured, "at": time.time()}
            self._changed = True
        return measured

    def __enter__(self) -> _Record:
        return self

    def __exit__(self, *error: object) -> None:
        """Keep it, if the folder lets us; a half-written file would only be measured again."""
        if self._changed:
            with contextlib.suppress(OSError):
                self._path.write_text(json.dumps(self._values))
