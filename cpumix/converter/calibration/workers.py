"""Threads for NumPy: pieces of work of fixed sizes, each on one thread.

BLAS on several threads sums in another order for each number of them. So it gets one, and the
threads are here: a piece's bits depend on the piece alone, whoever computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """A context manager; while it is open, the process's BLAS runs on the thread that calls it."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def __enter__(self) -> Workers:
        """Start."""
        with ExitStack() as stack:
            stack.enter_context(threadpool_limits(1, user_api="blas"))
            pool = ThreadPoolExecutor(self._threads, "cpumix-calibrate")
            self._pool = stack.enter_context(pool)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what has begun, and give BLAS its threads back."""
        self._pool.shutdown(cancel_futures=True)
        self._stack.close()

    def map(self, function: Callable[[T], R], pieces: Iterable[T]) -> list[R]:
        """Return what the function gives for each piece, in their order."""
        return list(self._pool.map(function, pieces))
