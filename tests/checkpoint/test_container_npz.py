"""Files of numpy.savez and mx.savez."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from torch_files import write_entries

from cpumix.checkpoint.containers import read_tensors
from cpumix.errors import ConvertError

ARRAYS = {
    "layers.0.attention.wq.weight": np.arange(12, dtype=np.uint32).reshape(3, 4),
    "turned": np.asfortranarray(np.arange(12, dtype=np.float16).reshape(3, 4)),
    "cube": np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 4)),
    "vector": np.arange(5, dtype=np.int8),
    "one": np.array(2.5),
    "none": np.zeros((0, 3), np.float16),
}


def entry(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


def test_arrays_of_numpy(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **ARRAYS)
    found = read_tensors(tmp_path / "x.npz")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert np.array_equal(found[name].read(), array), name


def test_second_version_and_bfloat16(tmp_path: Path) -> None:
    bits = np.arange(6, dtype=np.uint16).reshape(2, 3)
    data = entry(bits.view("V2"), (2, 0)).replace(b"|V2", b"<V2")
    write_entries(tmp_path / "x.npz", {"a.npy": data})
    stored = read_tensors(tmp_path / "x.npz")["a"]
    assert stored.dtype == "BF16"
    assert np.array_equal(stored.read(), bits)


def test_compressed_file_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", **ARRAYS)
    with pytest.raises(ConvertError, match="expected it stored as it is, found it compressed"):
        read_tensors(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a plain array of NumPy, found"),
        (b"\x93NUMPY\x01\x00\xff\xff", "expected a plain array of NumPy, found"),
        (entry(np.arange(3)).replace(b"'shape'", b"'shove'"), "expected a plain array of NumPy"),
        (entry(np.arange(3)).replace(b"(3,)", b"(-3,"), "expected a plain array of NumPy, found"),
        (entry(np.arange(3)).replace(b"<i8", b"|O8"), 'of type "O8"'),
        (entry(np.arange(3)).replace(b"<i8", b">i8"), "expected a plain array of NumPy, found"),
        (entry(np.arange(3))[:-1], r"expected 23 bytes of numbers, found the header of \(3,\)"),
        (entry(np.arange(3)) + b"x", "expected 25 bytes of numbers, found the header of"),
        (entry(np.array([None] * 3)), "expected a plain array of NumPy, found|of type"),
        (entry(np.zeros((1,) * 9)), "expected 8 bytes of numbers, found the header of"),
    ],
)
def test_strange_array_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    write_entries(tmp_path / "x.npz", {"a.npy": data})
    with pytest.raises(ConvertError, match=message):
        read_tensors(tmp_path / "x.npz")


def test_other_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for text, message in (
        (b"no zip file", "expected a zip file, found a damaged one"),
        (b"version https://git-lfs.github.com/spec/v1\n", "found a git-lfs pointer to it"),
    ):
        path.write_bytes(text)
        with pytest.raises(ConvertError, match=message):
            read_tensors(path)
    path.unlink()
    with pytest.raises(ConvertError, match="cannot read this part of the checkpoint"):
        read_tensors(path)
