"""What every encoding makes of stored parts: a matrix that can be read some rows at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class Matrix(Protocol):
    """One logical tensor of a checkpoint: weights of (rows, columns) in any encoding.

    A norm or a bias is (rows,). Stacked experts are (experts, rows, columns), whose rows are
    numbered through. Views in `views` cut, turn and reorder any of them.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights, whatever the shape of what is stored."""

    @property
    def encoding(self) -> str:
        """What people call it: "BF16", "Q4_K", "GPTQ 4 bits"."""

    @property
    def nbytes(self) -> int:
        """Bytes in the checkpoint, scales and the like included."""

    @property
    def path(self) -> Path:
        """The file that holds the largest part; errors say it."""

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start..stop, (stop - start, columns) or (stop - start,).

        float32, float16, or uint16 for the bits of bfloat16. Any number of threads may read at
        once. Raises ConvertError when the file has changed or holds what it must not.
        """


def count_rows(matrix: Matrix) -> int:
    """Return how many rows `read_rows` numbers."""
    rows = 1
    for size in matrix.shape[:-1] if len(matrix.shape) > 1 else matrix.shape:
        rows *= size
    return rows


def widen(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return what `Matrix.read_rows` gave as float32; exact."""
    if rows.dtype == np.uint16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return rows.astype(np.float32, copy=False)


class Held(Generic[T]):
    """What each row of a matrix needs: loaded for the first rows, let go after the last ones."""

    def __init__(self, load: Callable[[], T]) -> None:
        self._load = load
        self._held: T | None = None
        self._lock = threading.Lock()

    def get(self, last: bool) -> T:
        """Return what `load` gave; with `last` it is not kept any longer."""
        with self._lock:
            held = self._load() if self._held is None else self._held
            self._held = None if last else held
        return held
