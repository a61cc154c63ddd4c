"""Starts NumPy for commands that multiply no matrices: without threads that would."""

from __future__ import annotations

import os

_THREADS = "OPENBLAS_NUM_THREADS"


def start_numpy() -> None:
    """Import NumPy with one thread in its OpenBLAS, unless the user says how many.

    OpenBLAS starts a thread for each core as it is loaded, and they look for work until they fall
    asleep: on 2 cores that takes 0.1 s of a second core, of a command that ends in 0.15 s.
    """
    if _THREADS in os.environ:
        return
    os.environ[_THREADS] = "1"
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[_THREADS]  # it is read once; processes that we start have all theirs
