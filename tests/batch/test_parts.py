"""The folder of parts: whole or not there, of one job, for one process."""

from __future__ import annotations

import errno
import json
import os

import pytest

from cpumix.batch.parts import PartsFolder, folder_of
from cpumix.errors import ConfigError, FormatError

JOB = {"model": "m", "seed": 0, "stop": ("a", "b")}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.jsonl"


def test_parts_are_found_again(target):
    with PartsFolder(target, JOB) as parts:
        assert [*parts.numbers()] == []
        parts.put(3, b"a\nb\n")
        parts.put(12, b"c\n")
    (folder_of(target) / ".00004.jsonl.0123abcd.partial").write_bytes(b"half")
    with PartsFolder(target, JOB) as parts:
        assert [*parts.numbers()] == [3, 12]
        assert parts.has(3)
        assert not parts.has(4)
        assert parts.read(3, 2) == [b"a\n", b"b\n"]
        assert not [*parts.folder.glob(".*")]
        parts.remove()
    assert not folder_of(target).exists()


def test_parts_of_another_job_are_refused_by_name(target):
    with PartsFolder(target, JOB) as parts:
        parts.put(0, b"a\n")
    for change in ({"seed": 1}, {"model": "n", "seed": 1}, {"column": "x"}):
        told = ", ".join(sorted(change))
        with pytest.raises(ConfigError, match=rf"found those of another \({told}: not the same\)"):
            PartsFolder(target, JOB | change)
    with PartsFolder(target, JOB) as parts:  # and nothing was lost
        assert parts.has(0)


@pytest.mark.parametrize("files", [{"00000.jsonl": "x"}, {"job.json": "no"}, {"job.json": "[]"}])
def test_other_files_are_left_alone(target, files):
    folder_of(target).mkdir()
    for name, text in files.items():
        (folder_of(target) / name).write_text(text)
    with pytest.raises(ConfigError, match="expected the parts of a batch, found other files"):
        PartsFolder(target, JOB)
    assert {path.name for path in folder_of(target).iterdir()} >= files.keys()


def test_two_processes(target):
    with (
        PartsFolder(target, JOB),
        pytest.raises(ConfigError, match="expected to be alone, found another process"),
    ):
        PartsFolder(target, JOB)
    PartsFolder(target, JOB).close()


@pytest.mark.parametrize("data", [b"a\n", b"a\nb", b"", None])
def test_damaged_part(target, data):
    with PartsFolder(target, JOB) as parts:
        if data is not None:
            (parts.folder / "00000.jsonl").write_bytes(data)
        with pytest.raises(
            FormatError,
            match=r"expected 2 answers, found \d+. Delete this file",
        ):
            parts.read(0, 2)


def test_full_disk(target, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    with PartsFolder(target, JOB) as parts:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(ConfigError, match=r"batch: cannot write in .*No space left on device"):
            parts.put(0, b"a\n")
        assert {path.name for path in parts.folder.iterdir()} == {"job.json", "lock"}
    assert json.loads((folder_of(target) / "job.json").read_text())["version"] == 1


def test_folder_that_cannot_be_made(tmp_path):
    folder_of(tmp_path / "out").write_text("a file")
    with pytest.raises(ConfigError, match="batch: cannot write in"):
        PartsFolder(tmp_path / "out", JOB)
