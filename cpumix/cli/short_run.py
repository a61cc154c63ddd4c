"""Leaves out what a command of a fraction of a second has no use for."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

_THREADS = "OPENBLAS_NUM_THREADS"


def start_numpy() -> None:
    """Import NumPy with one thread in its OpenBLAS, unless the user says how many.

    OpenBLAS starts a thread for each core as it is loaded, and they look for matrices to multiply
    until they fall asleep: on 2 cores that takes 0.1 s of a second core, of a command that ends in
    0.15 s and multiplies none.
    """
    if _THREADS in os.environ:
        return
    os.environ[_THREADS] = "1"
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[_THREADS]  # it is read once; processes that we start have all theirs


@contextmanager
def without_collector() -> Iterator[None]:
    """Switch Python's search for garbage in circles off.

    Headers make none, but objects that it would go through again and again: 0.05 s for the 19,000
    tensors of Qwen3 30B-A3B.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
