"""Numbers as they are stored: every code of the 8-bit floats, and tensors with strides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cpumix.checkpoint.encodings.plain import E4M3, E5M2, PlainMatrix
from cpumix.checkpoint.matrix import count_rows
from cpumix.checkpoint.stored import StoredTensor


def read(path: Path, data: bytes, dtype: str, shape: tuple[int, ...], **options) -> np.ndarray:
    path.write_bytes(data)
    matrix = PlainMatrix(StoredTensor(path, dtype, shape, 0, len(data), **options))
    rows = count_rows(matrix)
    middle = rows // 2
    parts = [matrix.read_rows(0, middle), matrix.read_rows(middle, rows)]
    return np.concatenate(parts)


def test_e4m3_is_the_one_of_ocp() -> None:
    # OCP 8-bit Floating Point Specification, table 1: E4M3 has no infinity and one NaN a sign.
    assert E4M3[0x7E] == 448 and E4M3[0x08] == 2.0**-6 and E4M3[0x01] == 2.0**-9
    assert E4M3[0x38] == 1 and E4M3[0xB8] == -1 and E4M3[0x3F] == 1.875
    assert np.flatnonzero(np.isnan(E4M3)).tolist() == [0x7F, 0xFF]
    assert np.array_equal(E4M3[128:255], -E4M3[:127])


def test_e5m2_is_the_upper_half_of_float16() -> None:
    halves = (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)
    assert np.array_equal(E5M2, halves, equal_nan=True)


@pytest.mark.parametrize(("dtype", "table"), [("F8_E4M3", E4M3), ("F8_E5M2", E5M2)])
def test_every_code_of_8_bits(tmp_path: Path, dtype: str, table: np.ndarray) -> None:
    found = read(tmp_path / "x", bytes(range(256)), dtype, (8, 32))
    assert found.dtype == np.float32
    assert np.array_equal(found, table.reshape(8, 32), equal_nan=True)


@pytest.mark.parametrize(
    ("shape", "strides"), [((6, 4), (1, 6)), ((3, 4), (8, 2)), ((2, 3, 4), (1, 2, 6)), ((5,), (4,))]
)
def test_strides(tmp_path: Path, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    numbers = np.arange(24, dtype="<f4")
    expected = np.lib.stride_tricks.as_strided(numbers, shape, [4 * n for n in strides])
    found = read(tmp_path / "x", numbers.tobytes(), "F32", shape, strides=strides)
    assert np.array_equal(found, expected.reshape(len(found), *shape[1:][-1:]))
