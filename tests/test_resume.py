"""A conversion that was interrupted goes on where it was, and ends in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import checkpoints
import pytest

import cpumix
from cpumix.errors import ConvertError

pytestmark = pytest.mark.slow

CONFIG = checkpoints.MIXTRAL | {"vocab_size": 300, "hidden_size": 40, "intermediate_size": 56}
TENSORS = 1 + 2 * 7 + 2 + 8  # embedding, two layers, norm and head, eight experts


class Interrupt(BaseException):
    """What no code expects."""


def write(tmp_path: Path, **sizes: int) -> Path:
    checkpoints.write_checkpoint(tmp_path / "source", CONFIG | sizes)
    return tmp_path / "source"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path)


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == ".partial"]


def interrupt(source: Path, share: float, **options) -> None:
    """Convert until a share of the source is done."""

    def stop(done: int, total: int) -> None:
        if done > share * total:
            raise Interrupt

    with pytest.raises(Interrupt):
        cpumix.convert(source, source.with_name("x.bin"), "int8", progress=stop, **options)


@pytest.fixture
def expected(source: Path) -> bytes:
    cpumix.convert(source, source.with_name("whole.bin"), "int8")
    return source.with_name("whole.bin").read_bytes()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_goes_on_and_ends_in_the_same_bytes(source: Path, expected: bytes, share: float) -> None:
    interrupt(source, share, resume=True)
    assert len(partials(source.parent)) == 1
    seen: list[tuple[int, int]] = []
    report = cpumix.convert(
        source,
        source.with_name("x.bin"),
        "int8",
        resume=True,
        progress=lambda *at: seen.append(at),
    )
    assert 0 < report.resumed <= TENSORS
    assert source.with_name("x.bin").read_bytes() == expected
    assert seen[0][0] > share / 2 * seen[0][1] and seen[-1][0] == seen[-1][1]
    assert partials(source.parent) == []


def test_several_interruptions(source: Path, expected: bytes) -> None:
    for share in (0.2, 0.4, 0.6, 0.8):
        interrupt(source, share, resume=True)
    report = cpumix.convert(source, source.with_name("x.bin"), "int8", resume=True)
    assert report.resumed > TENSORS / 2
    assert source.with_name("x.bin").read_bytes() == expected


def test_without_the_option_nothing_is_left(source: Path) -> None:
    interrupt(source, 0.5)
    assert partials(source.parent) == []
    interrupt(source, 0.5, resume=True)
    interrupt(source, 0.5)  # removes what the one before has left
    assert partials(source.parent) == []


def test_first_tensor_not_done_leaves_nothing(source: Path) -> None:
    interrupt(source, -1, resume=True)
    assert len(partials(source.parent)) <= 1
    report = cpumix.convert(source, source.with_name("x.bin"), "int8", resume=True)
    assert report.resumed <= 1


@pytest.mark.parametrize("change", ["source", "precision", "adapter"])
def test_another_conversion_starts_anew(source: Path, expected: bytes, change: str) -> None:
    interrupt(source, 0.5, resume=True)
    precision, lora = "int8", []
    if change == "source":
        os.utime(source / "model.safetensors", (1, 1))
    elif change == "precision":
        precision = "bf16"
    else:
        (source.parent / "lora").mkdir()
        checkpoints.write_shard(source.parent / "lora" / "lora.safetensors", {})
        lora = [(source.parent / "lora", 1.0)]
    target = source.with_name("x.bin")
    report = cpumix.convert(source, target, precision, lora=lora, resume=True)
    assert report.resumed == 0
    assert (target.read_bytes() == expected) is (change != "precision")
    assert partials(source.parent) == []


def test_damage_to_what_was_done_is_noticed(source: Path, expected: bytes) -> None:
    interrupt(source, 0.6, resume=True)
    [path] = partials(source.parent)
    data = bytearray(path.read_bytes())
    place = len(data) // 3
    data[place : place + 64] = bytes(64)
    path.write_bytes(data)
    cpumix.convert(source, source.with_name("x.bin"), "int8", resume=True)
    assert source.with_name("x.bin").read_bytes() == expected


@pytest.mark.parametrize("journal", [b"", b"cpumix partial 2", b"\xff" * 400])
def test_journal_that_is_none(source: Path, expected: bytes, journal: bytes) -> None:
    interrupt(source, 0.6, resume=True)
    [path] = partials(source.parent)
    with open(path, "r+b") as file:
        file.write(journal.ljust(64, b"\xff"))
    report = cpumix.convert(source, source.with_name("x.bin"), "int8", resume=True)
    assert report.resumed == 0
    assert source.with_name("x.bin").read_bytes() == expected


def test_failure_keeps_what_is_done_too(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cpumix.store.partial import PartialFile

    write, wrote = PartialFile.write, []

    def fail(self: PartialFile, offset: int, data: memoryview) -> None:
        wrote.append(offset)
        if len(wrote) == 12:
            raise ConvertError("disk space: gone.")
        write(self, offset, data)

    monkeypatch.setattr(PartialFile, "write", fail)
    with pytest.raises(ConvertError, match="disk space: gone"):
        cpumix.convert(source, source.with_name("x.bin"), "int8", resume=True)
    monkeypatch.undo()
    report = cpumix.convert(source, source.with_name("x.bin"), "int8", resume=True)
    assert report.resumed == 11


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_process(tmp_path: Path) -> None:
    source = write(tmp_path, hidden_size=256, intermediate_size=512)  # more than a large page
    cpumix.convert(source, source.with_name("whole.bin"), "int8")
    program = (
        "import os, signal, sys, cpumix\n"
        "def kill(done, total):\n"
        "    if done > 0.9 * total: os.kill(os.getpid(), signal.SIGKILL)\n"
        "cpumix.convert(sys.argv[1], sys.argv[2], 'int8', progress=kill)\n"
    )
    target = source.with_name("x.bin")
    done = subprocess.run([sys.executable, "-c", program, source, target], check=False)
    assert done.returncode == -signal.SIGKILL
    report = cpumix.convert(source, target, "int8", resume=True)
    assert report.resumed > 0
    assert target.read_bytes() == source.with_name("whole.bin").read_bytes()
