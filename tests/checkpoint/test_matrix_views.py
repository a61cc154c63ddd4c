"""Views of matrices give the rows that NumPy gives of the whole, in any slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cpumix.checkpoint.views as views
from cpumix.checkpoint.encodings.plain import PlainMatrix
from cpumix.checkpoint.matrix import Held, Matrix, count_rows
from cpumix.checkpoint.stored import StoredTensor
from cpumix.checkpoint.views import HalfSplit, RowRange, Transposed

WEIGHTS = np.arange(24 * 10, dtype=np.float32).reshape(24, 10)


@pytest.fixture
def matrix(tmp_path: Path) -> PlainMatrix:
    path = tmp_path / "weights"
    path.write_bytes(b"head" + WEIGHTS.tobytes())
    return PlainMatrix(StoredTensor(path, "F32", (24, 10), 4, WEIGHTS.nbytes))


def check(view: Matrix, expected: NDArray[Any]) -> None:
    """Compare a view with an array, whole and in slices of every size."""
    assert view.shape == expected.shape
    assert count_rows(view) == len(expected)
    for step in range(1, len(expected) + 1):
        starts = range(0, len(expected), step)
        rows = [view.read_rows(s, min(s + step, len(expected))) for s in starts]
        assert np.array_equal(np.concatenate(rows), expected), step


def test_range_of_rows(matrix: PlainMatrix) -> None:
    part = RowRange(matrix, 5, 7)
    check(part, WEIGHTS[5:12])
    assert part.nbytes == 7 * 10 * 4
    assert (part.encoding, part.path) == ("F32", matrix.path)


def test_expert_of_a_stack(matrix: PlainMatrix) -> None:
    stored = StoredTensor(matrix.path, "F32", (4, 6, 10), 4, WEIGHTS.nbytes)
    part = RowRange(PlainMatrix(stored), 12, 6)
    check(part, WEIGHTS[12:18])
    assert part.nbytes == 6 * 10 * 4


@pytest.mark.parametrize("head_dim", [2, 4, 8, 24])
def test_pairs_become_halves(matrix: PlainMatrix, head_dim: int) -> None:
    expected = []
    for head in range(0, 24, head_dim):
        expected += [head + i for i in range(0, head_dim, 2)]
        expected += [head + i for i in range(1, head_dim, 2)]
    check(HalfSplit(matrix, head_dim), WEIGHTS[expected])


@pytest.mark.parametrize("band", [1, 3 * 10 * 4, 1 << 20])
def test_transposition(matrix: PlainMatrix, band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BAND", band)
    check(Transposed(matrix), WEIGHTS.T)
    check(Transposed(RowRange(matrix, 3, 9)), WEIGHTS[3:12].T)


def test_held_is_loaded_once_and_let_go() -> None:
    loads = []
    held = Held(lambda: loads.append(1) or len(loads))
    assert [held.get(last=False), held.get(last=False), held.get(last=True)] == [1, 1, 1]
    assert held.get(last=False) == 2
