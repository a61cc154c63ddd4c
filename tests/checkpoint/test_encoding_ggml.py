"""ggml's tensor types: numbers equal, bit for bit, to those of the package gguf.

`data/ggml-types.json` holds, for each type, the SHA-256 of what `gguf.dequantize` (0.19.0) makes of
256 rows of random blocks, and the number that GGUF files call the type by. Random scales may be
infinite or no numbers; what is not a number has many bit patterns, so it counts as 0 there.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from cpumix.checkpoint.encodings.ggml import GGML_TYPES, UNREAD_TYPES, dequantize
from cpumix.checkpoint.encodings.ggml.bits import unpack

GOLDENS = json.loads((Path(__file__).parents[1] / "data/ggml-types.json").read_text())
CODES = {kind.name: code for code, kind in GGML_TYPES.items()}


def random_rows(code: int, nbytes: int, rows: int = 256) -> np.ndarray:
    """Return bytes (rows, 8 blocks) that use every bit pattern of small fields."""
    data = np.random.default_rng(code).bytes(rows * 8 * nbytes)
    return np.frombuffer(data, np.uint8).reshape(rows, -1)


def test_each_type_has_a_golden() -> None:
    assert {name: golden["code"] for name, golden in GOLDENS.items()} == CODES
    assert not CODES.values() & UNREAD_TYPES.keys()


@pytest.mark.parametrize("name", GOLDENS)
def test_numbers_equal_those_of_gguf(name: str) -> None:
    kind = GGML_TYPES[GOLDENS[name]["code"]]
    values = dequantize(random_rows(CODES[name], kind.nbytes), kind)
    assert values.shape == (256, 8 * kind.values) and values.dtype == np.float32
    values = np.where(np.isnan(values), np.float32(0), values)
    assert hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() == GOLDENS[name]["sha256"]


@pytest.mark.parametrize("name", GOLDENS)
def test_a_row_does_not_depend_on_its_neighbours(name: str) -> None:
    kind = GGML_TYPES[CODES[name]]
    rows = random_rows(1, kind.nbytes, 5)
    whole, one = dequantize(rows, kind), dequantize(rows[3:4], kind)
    np.testing.assert_array_equal(whole[3:4], one)


def test_bit_fields_are_unpacked_lowest_first() -> None:
    assert unpack(np.array([[0x21, 0x43]], np.uint8), 4, 2).tolist() == [[1, 3, 2, 4]]
    assert unpack(np.array([[0x21, 0x43]], np.uint8), 4, 1).tolist() == [[1, 2, 3, 4]]
    assert unpack(np.array([[0b11100100]], np.uint8), 2, 1).tolist() == [[0, 1, 2, 3]]
