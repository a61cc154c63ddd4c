"""Encoding weights gives the definitions' tiles, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from naive import KINDS, hard

from cpumix.kernels.encode import encode
from cpumix.quant import FORMATS, bf16

SHAPES = [(1, 1), (16, 32), (17, 33), (40, 544), (3, 1056), (50, 70)]
INFINITE = 0x7F800000


def bits_of(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


@pytest.mark.parametrize("kind", [*KINDS, "equal", "blocks"])
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_tiles_equal_definition(name, n, k, kind):
    if kind == "equal":
        w = np.full((n, k), 0.37, np.float32)
    elif kind == "blocks":  # magnitudes that differ by block, some below float16's range
        w = hard("random", n, k, seed=5) * (np.float32(10) ** (np.arange(k) // 32 % 20 - 14))
        w = w.astype(np.float32)
    else:
        w = hard(kind, n, k, seed=n * k)
    tiles, largest = encode(w, name)
    assert (tiles == FORMATS[name].quantize(w)).all()
    assert largest == bits_of(np.abs(w).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_bfloat16_weights(name, n, k, kind):
    stored = bf16.from_float32(hard(kind, n, k, seed=n * k))
    wide = bf16.to_float32(stored)
    tiles, largest = encode(stored, name)
    assert (tiles == FORMATS[name].quantize(wide)).all()
    assert largest == bits_of(np.abs(wide).max())
    if name == "bf16":
        assert (FORMATS[name].dequantize(tiles, n, k) == wide).all()


@pytest.mark.parametrize("name", FORMATS)
def test_ties_take_the_definitions_side(name):
    """Weights midway between two codes, of both signs, at scales that are powers of two."""
    halves = np.arange(-127, 127.5, 0.5, dtype=np.float32)
    w = np.zeros((len(halves), 32), np.float32)
    w[:, 0], w[:, 1:] = 127, halves[:, None]
    w[::3] /= 64
    w[1::2] *= -1
    assert (encode(w, name)[0] == FORMATS[name].quantize(w)).all()


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_a_larger_array(name):
    whole = hard("random", 60, 100, seed=1)
    part = whole[7:40, :70]
    assert (encode(part, name)[0] == FORMATS[name].quantize(part)).all()


@pytest.mark.parametrize("name", FORMATS)
def test_read_only_weights(name):
    data = hard("random", 20, 40, seed=1)
    read_only = np.frombuffer(data.tobytes(), np.float32).reshape(20, 40)
    assert (encode(read_only, name)[0] == encode(data, name)[0]).all()


@pytest.mark.parametrize("place", [(0, 0), (16, 39), (7, 32)])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", FORMATS)
def test_nan_and_infinity_are_reported(name, bad, place):
    w = hard("random", 17, 40, seed=1)
    w[place] = bad
    assert encode(w, name)[1] >= INFINITE
    assert encode((w.view(np.uint32) >> 16).astype(np.uint16), name)[1] >= INFINITE


@pytest.mark.parametrize("name", FORMATS)
def test_largest_finite_number_is_not_infinity(name):
    w = np.zeros((17, 40), np.float32)
    w[3, 4] = np.finfo(np.float32).min
    with np.errstate(over="ignore", invalid="ignore"):  # no float16 scale can hold it
        assert encode(w, name)[1] == INFINITE - 1
