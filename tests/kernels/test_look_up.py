"""Rows of a matrix are those of its format's definition, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from naive import KINDS, hard

from cpumix.kernels import create_backend
from cpumix.kernels.generic_backend import GenericBackend
from cpumix.kernels.operands import TiledMatrix
from cpumix.quant import FORMATS, q4

SHAPES = [(1, 1), (16, 32), (17, 33), (50, 70), (40, 544)]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_rows_equal_definition(name, n, k, kind):
    tiles = FORMATS[name].quantize(hard(kind, n, k, seed=n + k))
    matrix, backend = TiledMatrix(name, tiles), create_backend(1)
    for ids in ([0], [n - 1, 0, 0, n // 2], range(n)):
        index = np.array(ids, np.int64)
        assert same_bits(backend.look_up(matrix, index), FORMATS[name].rows(tiles, index))


def test_code_book_of_the_matrix():
    tiles = q4.quantize(hard("random", 17, 70, seed=1))
    book = np.array([-127, -90, *range(-60, 60, 10), 90, 127], np.int8)
    matrix, ids = TiledMatrix("q4", tiles, book), np.arange(17)
    assert same_bits(create_backend(1).look_up(matrix, ids), q4.rows(tiles, ids, book))
    assert same_bits(GenericBackend(1).look_up(matrix, ids), q4.rows(tiles, ids, book))
