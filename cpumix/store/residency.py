"""How much of a mapped file lies in memory, as the system's `mincore` tells it."""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

LARGE_PAGE = 2 << 20  # bytes, on x86 and on ARM with pages of 4 KiB


def resident_bytes(address: int, nbytes: int) -> int | None:
    """Count the mapped bytes that are in memory, whoever read them; None if the system keeps quiet.

    `address` must be the start of a page. Linux says "all" of a file that the user may neither
    write nor owns.
    """
    if sys.platform not in ("linux", "darwin"):
        return None
    pages = -(-nbytes // mmap.PAGESIZE)
    states = np.empty(pages, np.uint8)  # bit 0 of each: resident
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    if mincore(address, nbytes, states.ctypes.data) != 0:
        return None
    return min(nbytes, int(np.count_nonzero(states & 1)) * mmap.PAGESIZE)
