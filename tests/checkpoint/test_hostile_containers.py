"""Files that are damaged on purpose: each is refused in one sentence, or read as what it says.

A bounded run of tools/fuzz/containers.py; faults that it found stand below by their numbers.
"""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from fuzz.containers import KINDS, cases, check

from cpumix.checkpoint.containers import CONTAINERS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
def test_sound_file_is_read(tmp_path: Path, kind: str) -> None:
    import fuzz.containers as fuzz

    make = {"torch-zip": fuzz.torch_zip, "torch-legacy": fuzz.torch_legacy}
    make |= {"safetensors": fuzz.safetensors, "npz": fuzz.npz, "torch-pickle": fuzz.torch_zip}
    make["gguf"] = fuzz.foreign_gguf
    assert check(tmp_path / ("x" + KINDS[kind][0]), make[kind]()) == "read"


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(tmp_path: Path, kind: str) -> None:
    outcomes = {
        check(tmp_path / ("x" + KINDS[kind][0]), data) for _, data in cases(kind, 400, seed=0)
    }
    assert outcomes == {"refused", "read"}  # else the damage is too large to get anywhere


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_take_little_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x" + KINDS[kind][0])
    check(path, next(cases(kind, 1, seed=0))[1])  # what is imported or cached counts once
    tracemalloc.start()
    try:
        for _, data in cases(kind, 50, seed=1000):
            check(path, data)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20  # a legacy file's first 32 MiB
    finally:
        tracemalloc.stop()


def test_index_cannot_lead_outside(tmp_path: Path) -> None:
    from cpumix.checkpoint.shards import ShardNames, read_shards
    from cpumix.errors import ConvertError

    names = ShardNames("*.safetensors", index_name="index.json")
    for shard in (
        "../x.safetensors",
        "/x.safetensors",
        "a/../../x.safetensors",
        "..\\x.safetensors",
    ):
        (tmp_path / "index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
        with pytest.raises(ConvertError, match="files beside the index, found"):
            read_shards(tmp_path, names, {})


def test_every_container_is_fuzzed() -> None:
    assert {suffix for suffix, _ in KINDS.values()} >= CONTAINERS.keys() - {".pt", ".pth"}
