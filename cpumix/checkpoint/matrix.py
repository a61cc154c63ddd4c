"""What every encoding makes of stored parts: a matrix that can be read some rows at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.tiles import BLOCK

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


class Coded(NamedTuple):
    """Rows as whole numbers, each times the scale of its block of 32 columns: exactly the values.

    So they go into formats of 8 bits, and some into 4, without being rounded again.
    """

    codes: NDArray[np.int8]
    """(rows, columns), -127 to 127."""
    scales: NDArray[np.float16]
    """(rows, columns / 32)."""


@runtime_checkable
class CodedMatrix(Protocol):
    """A matrix that may be able to give its rows as codes."""

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return rows start..stop, None if codes and scales would not be the same values."""


def read_codes(matrix: Matrix, start: int, stop: int) -> Coded | None:
    """Return rows of any matrix as codes, None where that is not exact."""
    return matrix.read_codes(start, stop) if isinstance(matrix, CodedMatrix) else None


@runtime_checkable
class BookMatrix(Protocol):
    """A matrix that may know which codes it can have."""

    def code_values(self) -> tuple[int, ...] | None:
        """Return the codes that `read_codes` may give, in ascending order; None if unknown."""


def code_values(matrix: Matrix) -> tuple[int, ...] | None:
    """Return which codes any matrix can have, None if that is not known."""
    return matrix.code_values() if isinstance(matrix, BookMatrix) else None


def are_halves(scales: NDArray[np.float32]) -> bool:
    """Whether all scales are finite numbers of float16; who asks first need not make codes."""
    with np.errstate(over="ignore"):
        narrow = scales.astype(np.float16)
    return np.array_equal(narrow.astype(np.float32), scales) and bool(np.isfinite(narrow).all())


def coded(codes: NDArray[Any], scales: NDArray[Any]) -> Coded | None:
    """Return whole numbers (rows, columns) and scales (rows, groups) as codes, if that is exact."""
    columns = codes.shape[1]
    groups = scales.shape[1]
    if columns % BLOCK or columns % groups or (columns // groups) % BLOCK:
        return None
    if not are_halves(scales):
        return None
    narrow = scales.astype(np.float16)
    if codes.min(initial=0) < -127 or codes.max(initial=0) > 127:
        return None
    return Coded(codes.astype(np.int8, copy=False), narrow.repeat(columns // groups // BLOCK, 1))


@runtime_checkable
class SpreadMatrix(Protocol):
    """A matrix that may be made of parts in several files."""

    @property
    def paths(self) -> frozenset[Path]:
        """All files that its rows are read from."""


def files_of(matrix: Matrix) -> frozenset[Path]:
    """Return all files that a matrix is read from."""
    return matrix.paths if isinstance(matrix, SpreadMatrix) else frozenset({matrix.path})


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
