"""Tiles made of codes hold the same numbers as the codes, and none where a format cannot."""

from __future__ import annotations

import numpy as np
import pytest

from cpumix.quant import FORMATS, exact
from cpumix.quant.q4 import CODE_BOOK


def draw(n: int, k: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64([n, k]))
    codes = rng.choice(values, (n, k)).astype(np.int8)
    return codes, rng.normal(size=(n, k // 32)).astype(np.float16)


@pytest.mark.parametrize(("n", "k"), [(16, 32), (1, 64), (40, 96), (5, 32)])
@pytest.mark.parametrize("name", exact.EXACT_FORMATS)
def test_numbers_are_the_same(name: str, n: int, k: int) -> None:
    codes, scales = draw(n, k, CODE_BOOK if name == "q4" else np.arange(-127, 128))
    tiles = exact.to_tiles(name, codes, scales)
    assert tiles is not None
    assert tiles.nbytes == FORMATS[name].nbytes(n, k)
    expected = codes.astype(np.float32) * scales.astype(np.float32).repeat(32, axis=1)
    assert np.array_equal(FORMATS[name].dequantize(tiles, n, k), expected)


@pytest.mark.parametrize("name", exact.EXACT_FORMATS)
def test_rows_that_fill_up_a_tile_are_zeros(name: str) -> None:
    codes, scales = draw(5, 64, CODE_BOOK)
    tiles = exact.to_tiles(name, codes, scales)
    assert tiles is not None
    assert not FORMATS[name].dequantize(tiles, 16, 64)[5:].any()


def test_equals_quantizing_where_that_is_exact() -> None:
    codes, scales = draw(32, 64, np.arange(-127, 128))
    codes[:, ::32] = 127  # as Q8_0's quantizer has it: the largest code sets the scale
    scales = np.abs(scales) + np.float16(0.1)
    weights = codes.astype(np.float32) * scales.astype(np.float32).repeat(32, axis=1)
    tiles = exact.to_tiles("q8", codes, scales)
    assert np.array_equal(tiles, FORMATS["q8"].quantize(weights))


@pytest.mark.parametrize(
    ("values", "book"),
    [
        (tuple(range(-8, 8)), tuple(range(-8, 8))),
        ((-2, -1, 0, 1), (-2, -1, 0, *[1] * 13)),
        (tuple(CODE_BOOK.tolist()), None),
        (tuple(range(17)), None),
        ((-128, 0), None),
        ((), None),
    ],
)
def test_book_of_values(values: tuple[int, ...], book: tuple[int, ...] | None) -> None:
    assert exact.find_book(values) == book


OWN = [tuple(range(-8, 8)), (-2, -1, 0, 1), (-12, -8, -3, 0, 1, 6, 12)]


@pytest.mark.parametrize("values", OWN)
@pytest.mark.parametrize(("n", "k"), [(16, 32), (5, 96)])
def test_own_code_book(values: tuple[int, ...], n: int, k: int) -> None:
    codes, scales = draw(n, k, np.array(values))
    own = exact.find_book(values)
    assert own is not None
    book = np.array(own, np.int8)
    tiles = exact.to_tiles("q4", codes, scales, book)
    assert tiles is not None
    expected = codes.astype(np.float32) * scales.astype(np.float32).repeat(32, axis=1)
    assert np.array_equal(FORMATS["q4"].dequantize(tiles, n, k, book), expected)
    assert not FORMATS["q4"].dequantize(tiles, 16, k, book)[n:].any()


@pytest.mark.parametrize("values", OWN)
def test_rounding_to_a_book_takes_the_nearest_value(values: tuple[int, ...]) -> None:
    own = exact.find_book(values)
    assert own is not None
    book = np.array(own, np.int8)
    rows = np.random.Generator(np.random.PCG64(1)).normal(size=(20, 64)).astype(np.float32)
    rows[3] = 0
    found = FORMATS["q4"].dequantize(exact.round_to_book(rows, book), 20, 64, book)
    blocks = rows.reshape(20, 2, 32)
    scale = np.abs(blocks).max(-1, keepdims=True) / np.abs(book.astype(int)).max()
    scale = scale.astype(np.float16).astype(np.float32)
    choices = scale[..., None] * np.unique(book).astype(np.float32)
    least = np.abs(choices - blocks[..., None]).min(-1)
    assert np.allclose(np.abs(found.reshape(20, 2, 32) - blocks), least, atol=1e-6)


def test_values_outside_the_code_book() -> None:
    codes, scales = draw(16, 32, CODE_BOOK)
    codes[3, 7] = 2
    assert exact.to_tiles("q4", codes, scales) is None
    assert exact.to_tiles("bf16", codes, scales) is None
