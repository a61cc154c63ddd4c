"""Headers of shards, made by hand: each fault is told, and nothing in one is believed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint, write_header, write_shard

from cpumix.checkpoint import open_checkpoint
from cpumix.checkpoint.containers import read_tensors
from cpumix.checkpoint.stored import StoredTensor
from cpumix.errors import ConvertError


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return tmp_path / "x.safetensors"


def refused(path: Path, message: str) -> None:
    with pytest.raises(ConvertError, match=re.escape(message)) as error:
        read_tensors(path)
    assert str(path) in str(error.value)


def entry(begin: object, end: object, shape: object = (2,), dtype: object = "F32") -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_header_is_read_in_any_order(shard: Path) -> None:
    header = {"b": entry(8, 12, [1, 1]), "a": entry(0, 8), "empty": entry(8, 8, [0, 3])}
    write_header(shard, {"__metadata__": {"format": "pt"}, **header}, bytes(12))
    start = shard.stat().st_size - 12
    assert read_tensors(shard) == {
        "b": StoredTensor(shard, "F32", (1, 1), start + 8, 4),
        "a": StoredTensor(shard, "F32", (2,), start, 8),
        "empty": StoredTensor(shard, "F32", (0, 3), start + 8, 0),
    }


def test_header_of_an_unknown_dtype_is_read(shard: Path) -> None:
    write_header(shard, {"a": entry(0, 3, [6], "F4")}, bytes(3))
    assert read_tensors(shard)["a"].nbytes == 3


@pytest.mark.parametrize("data", [b"", b"1234567", b"<!DOCTYPE html><html>", b"\xff" * 16])
def test_other_file_is_refused(shard: Path, data: bytes) -> None:
    shard.write_bytes(data)
    refused(
        shard,
        "not a safetensors file: expected the length of a header in the first 8 bytes, "
        f"found {data[:8]!r}. Download it again.",
    )


def test_absurd_header_length_is_refused(shard: Path) -> None:
    write_header(shard, {}, length=100_000_001)
    refused(shard, "not a safetensors file: expected the length of a header")


def test_pointer_is_refused(shard: Path) -> None:
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 42\n")
    refused(shard, "expected the file itself, found a git-lfs pointer to it. Run `git lfs pull`")


def test_folder_is_refused(shard: Path) -> None:
    shard.mkdir()
    refused(shard, "cannot read this part of the checkpoint: ")


def test_truncated_header_is_refused(shard: Path) -> None:
    write_header(shard, b"{", length=5000)
    refused(shard, "the shard is truncated: expected at least 5008 bytes, found 9. Download it")


def test_truncated_data_is_refused(shard: Path) -> None:
    write_shard(shard, {"a": np.ones((100, 4), np.float32)})
    size = shard.stat().st_size
    with open(shard, "r+b") as file:
        file.truncate(size - 7)
    refused(shard, f"the shard is truncated: expected {size} bytes, found {size - 7}. Download it")


def test_truncated_shard_of_a_checkpoint_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, shards=3)
    path = tmp_path / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConvertError, match=f'{path.name}": the shard is truncated: expected'):
        open_checkpoint(tmp_path)


def test_longer_file_is_refused(shard: Path) -> None:
    write_header(shard, {"a": entry(0, 8)}, bytes(9))
    size = shard.stat().st_size
    refused(shard, f"expected the file to end at byte {size - 1}, found {size} bytes. The shard is")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe{}", b"{} x", b"[" * 100_000])
def test_header_that_is_no_json_is_refused(shard: Path, text: bytes) -> None:
    write_header(shard, text)
    refused(shard, "expected a header of JSON, found other bytes (")


def test_header_that_is_no_object_is_refused(shard: Path) -> None:
    write_header(shard, [1])
    refused(shard, "expected a JSON object as header, found a list")


def test_tensor_twice_in_a_header_is_refused(shard: Path) -> None:
    one = json.dumps(entry(0, 8)).encode()
    write_header(shard, b'{"a": ' + one + b', "b": 1, "a": ' + one + b"}", bytes(8))
    refused(shard, 'expected "a" once in the header, found it twice. The shard is damaged')


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        None,
        {},
        entry(0, 8, dtype=3),
        entry(0, 8, shape=None),
        entry(0, 8, shape=[2.0]),
        entry(0, 8, shape=[-2]),
        entry(0, 8, shape=[True, 2]),
        entry(0, 8, shape=[1 << 60, 1 << 60]),
        entry(-8, 0),
        entry(0, 1 << 70),
        entry("0", "8"),
        {"dtype": "F32", "shape": [2], "data_offsets": 8},
    ],
)
def test_entry_of_wrong_kind_is_refused(shard: Path, wrong: object) -> None:
    write_header(shard, {"a": wrong}, bytes(8))
    refused(shard, 'tensor "a": expected a dtype, a shape and two offsets, found others. The shard')


@pytest.mark.parametrize(
    "wrong", [entry(8, 0), entry(0, 8, [1] * 9), {**entry(0, 8), "data_offsets": [0, 8, 8]}]
)
def test_impossible_entry_is_refused(shard: Path, wrong: object) -> None:
    write_header(shard, {"a": wrong}, bytes(8))
    refused(shard, 'tensor "a": expected an offset where it begins and a later one where it ends')


def test_size_that_is_not_that_of_the_shape_is_refused(shard: Path) -> None:
    write_header(shard, {"a": entry(0, 8, [3], "BF16")}, bytes(8))
    refused(shard, 'tensor "a": expected 6 bytes for shape (3,) of BF16, found offsets for 8. The')


@pytest.mark.parametrize(
    ("second", "data"), [(entry(4, 12), 12), (entry(16, 24), 24), (entry(0, 8), 8)]
)
def test_overlap_and_hole_are_refused(shard: Path, second: object, data: int) -> None:
    write_header(shard, {"a": entry(0, 8), "b": second}, bytes(data))
    refused(shard, 'tensor "b": expected it at byte ')


def test_first_tensor_begins_where_the_header_ends(shard: Path) -> None:
    write_header(shard, {"a": entry(8, 16)}, bytes(16))
    start = shard.stat().st_size - 16
    refused(
        shard,
        f'tensor "a": expected it at byte {start}, where the header ends, found it at byte '
        f"{start + 8}. The shard is damaged: download it again.",
    )
