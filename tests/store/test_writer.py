"""Writing a model file: the bytes, the refusals, and what is left after every kind of end."""

import errno
import itertools
import os
import pickle
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpumix.config import Role, TensorSpec
from cpumix.errors import ConvertError
from cpumix.store import ModelWriter, TensorEntry, gguf, layout, partial
from cpumix.store.partial import PartialFile

METADATA = {"general.architecture": "llama", "general.alignment": layout.ALIGNMENT}
ENTRIES = [
    TensorEntry(TensorSpec("norm", (5,), Role.OUTPUT_NORM), "f32", 20),
    TensorEntry(TensorSpec("matrix", (16, 1024), Role.OUTPUT), "q8", 17408),
    TensorEntry(TensorSpec.of(Role.EXPERT, (3, 32, 32), 0, 0), "q4", 1728),
]
DATA = {e.name: np.arange(e.nbytes).astype(np.uint8) for e in ENTRIES}
TARGET = "model.cpumix"


def write(target: Path, **options: Any) -> Path:
    with ModelWriter(target, METADATA, ENTRIES, **options) as writer:
        for name, data in DATA.items():
            writer.write(name, data)
        writer.commit()
    return target


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_file_is_laid_out_as_documented(tmp_path: Path) -> None:
    content = write(tmp_path / TARGET).read_bytes()
    with open(tmp_path / TARGET, "rb") as stream:
        header = gguf.parse_header(stream, len(content), TARGET)
    assert header.data_start == 16384
    assert [t.offset for t in header.tensors] == [0, 16384, 16384 * 3]
    assert [(t.shape, t.type) for t in header.tensors] == [((5,), 0), ((17408,), 24), ((1728,), 24)]
    assert len(content) == 16384 * 5
    for tensor in header.tensors:
        start = header.data_start + tensor.offset
        assert content[start : start + tensor.nbytes] == DATA[tensor.name].tobytes()
        padding = content[start + tensor.nbytes : start + gguf.align(tensor.nbytes, 16384)]
        assert not any(padding)
    assert header.metadata["cpumix.tensor.formats"] == ["f32", "q8", "q4"]
    crcs = [zlib.crc32(data) for data in DATA.values()]
    assert header.metadata["cpumix.tensor.crc32"].tolist() == crcs
    # the documented place of the header's own checksum
    stored = int.from_bytes(content[55:59], "little")
    assert stored == zlib.crc32(content[:55] + bytes(4) + content[59 : header.end])
    assert header.metadata["cpumix.header.crc32"] == stored


def test_same_input_gives_same_bytes_in_any_chunks(tmp_path: Path) -> None:
    whole = write(tmp_path / TARGET).read_bytes()
    with ModelWriter(tmp_path / "chunks", METADATA, ENTRIES) as writer:
        for name, data in DATA.items():
            for start in range(0, len(data), 999):
                writer.write(name, bytes(data[start : start + 999]))
        writer.commit()
    assert (tmp_path / "chunks").read_bytes() == whole
    assert names(tmp_path) == ["chunks", TARGET]


def test_arrays_of_any_shape_are_written_as_bytes(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    with ModelWriter(
        tmp_path / TARGET, METADATA, [TensorEntry(TensorSpec("w", (2, 3), Role.ROUTER), "f32", 24)]
    ) as writer:
        writer.write("w", values)
        writer.commit()
    assert (tmp_path / TARGET).read_bytes()[16384:][:24] == values.tobytes()


@pytest.mark.parametrize(
    ("name", "nbytes"),
    [("matrix", 4), ("other", 4), ("norm", 21)],
    ids=["order", "unknown", "too long"],
)
def test_write_out_of_turn_is_a_bug(tmp_path: Path, name: str, nbytes: int) -> None:
    with ModelWriter(tmp_path / TARGET, METADATA, ENTRIES) as writer:
        with pytest.raises(ValueError, match=r"out of turn: next is .*norm"):
            writer.write(name, bytes(nbytes))


def test_commit_of_incomplete_file_is_a_bug(tmp_path: Path) -> None:
    with ModelWriter(tmp_path / TARGET, METADATA, ENTRIES) as writer:
        writer.write("norm", bytes(19))
        with pytest.raises(ValueError, match=r"norm.* is not complete: 19 bytes so far"):
            writer.commit()
    assert names(tmp_path) == []


def test_existing_target_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / TARGET).write_text("precious")
    with pytest.raises(
        ConvertError, match=r"found an existing file at .*model.cpumix\". Use --force"
    ):
        ModelWriter(tmp_path / TARGET, METADATA, ENTRIES)
    assert (tmp_path / TARGET).read_text() == "precious"
    assert names(tmp_path) == [TARGET]


def test_existing_target_is_replaced_by_force(tmp_path: Path) -> None:
    (tmp_path / TARGET).write_text("old")
    assert write(tmp_path / TARGET, force=True).stat().st_size == 16384 * 5


def test_target_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"found an existing file"):
        with ModelWriter(tmp_path / TARGET, METADATA, ENTRIES) as writer:
            for name, data in DATA.items():
                writer.write(name, data)
            (tmp_path / TARGET).write_text("precious")
            writer.commit()
    assert (tmp_path / TARGET).read_text() == "precious"
    assert names(tmp_path) == [TARGET]


def test_target_without_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConvertError, match=r"expected an existing folder around it, found none at .*gone"
    ):
        ModelWriter(tmp_path / "gone" / TARGET, METADATA, ENTRIES)


@pytest.mark.parametrize("force", [False, True])
def test_folder_as_target_is_refused(tmp_path: Path, force: bool) -> None:
    with pytest.raises(
        ConvertError, match=r"name of a file to write, found a folder at .*Name a file in"
    ):
        ModelWriter(tmp_path, METADATA, ENTRIES, force=force)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_link_as_target_is_refused(tmp_path: Path) -> None:
    (tmp_path / TARGET).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConvertError, match=r"found a link or device at"):
        ModelWriter(tmp_path / TARGET, METADATA, ENTRIES, force=True)


def test_folder_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(
            ConvertError, match=r'the system refuses to write ".*model.cpumix": Permission denied'
        ):
            write(tmp_path / TARGET)
    assert names(tmp_path) == []


def test_too_little_space_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    huge = [TensorEntry(TensorSpec("w", (1, 1), Role.OUTPUT), "q8", 2**60)]
    with pytest.raises(
        ConvertError, match=r"disk space: 1048576.0 TiB needed, .* free, for .*Free "
    ):
        with ModelWriter(tmp_path / TARGET, METADATA, huge):
            pass
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "disk space: 80.0 KiB needed, the disk or quota is full, for"),
        (errno.EDQUOT, "disk space: 80.0 KiB needed, the disk or quota is full, for"),
        (errno.EFBIG, r"file size: 80.0 KiB needed, .* limit \(ulimit -f\) allows less, for"),
        (errno.EIO, "the system refuses to write .*: Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["posix_fallocate", "write", "fsync", "rename_new"])
def test_disk_that_refuses_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, message: str
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        place = partial if call == "rename_new" else os
        patch.setattr(place, call, refuse, raising=False)
        with pytest.raises(ConvertError, match=message):
            write(tmp_path / TARGET)
    assert names(tmp_path) == []
    write(tmp_path / TARGET)


def test_file_system_without_allocation_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    assert write(tmp_path / TARGET).stat().st_size == 16384 * 5


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = write(tmp_path / TARGET).read_bytes()
    whole = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: whole(fd, data[:1000]))
        write(tmp_path / "short")
    assert (tmp_path / "short").read_bytes() == expected


def test_size_limit_of_the_process_is_explained(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no such limit on Windows")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, old[1]))
    try:
        with pytest.raises(ConvertError, match=r"limit \(ulimit -f\) allows less"):
            write(tmp_path / TARGET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert names(tmp_path) == []


def test_side_files_beyond_the_header_limit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "HEADER_LIMIT", 1 << 20)
    metadata = {**METADATA, "cpumix.file.tokenizer.json": bytes(1 << 20)}
    with pytest.raises(
        ConvertError,
        match=r"expected at most 1.0 MiB, found 1.0 MiB. Remove what the model does not need",
    ):
        ModelWriter(tmp_path / TARGET, metadata, ENTRIES)


@pytest.mark.parametrize("end", [KeyboardInterrupt, ConvertError, MemoryError])
def test_interrupted_writer_leaves_nothing(tmp_path: Path, end: type[BaseException]) -> None:
    with pytest.raises(end):
        with ModelWriter(tmp_path / TARGET, METADATA, ENTRIES) as writer:
            writer.write("norm", DATA["norm"])
            assert len(names(tmp_path)) == 1
            raise end
    assert names(tmp_path) == []


def test_writer_interrupted_while_allocating_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "ftruncate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / TARGET)
    assert names(tmp_path) == []


def test_file_left_by_a_killed_process_is_removed(tmp_path: Path) -> None:
    program = f"""
import pickle, sys
from pathlib import Path
from cpumix.store import ModelWriter
entries = pickle.loads({pickle.dumps(ENTRIES)!r})
with ModelWriter(Path({str(tmp_path / TARGET)!r}), {METADATA!r}, entries) as writer:
    writer.write("norm", bytes(20))
    print("ready", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
        (partial,) = names(tmp_path)
        write(tmp_path / TARGET)  # the first is alive: its file is its own
        assert names(tmp_path) == [partial, TARGET]
        process.send_signal(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
    assert names(tmp_path) == [partial, TARGET]
    write(tmp_path / TARGET, force=True)
    assert names(tmp_path) == [TARGET]


def test_only_partial_files_of_this_target_are_removed(tmp_path: Path) -> None:
    others = [".model.cpumix.bak.0123abcd.partial", ".model.cpumix.0123.partial", "notes.partial"]
    for name in [*others, ".model.cpumix.0123abcd.partial"]:
        (tmp_path / name).write_text("x")
    write(tmp_path / TARGET)
    assert names(tmp_path) == sorted([*others, TARGET])


@pytest.mark.skipif(sys.platform == "win32", reason="no umask there")
def test_file_gets_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    target = write(tmp_path / TARGET)
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_large_pages_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else the system keeps the file in small ones, and a run reads it more slowly."""
    large, put, places = 2 << 20, PartialFile._put, []

    def record(file: PartialFile, offset: int, data: memoryview) -> None:
        places.append((offset, len(data)))
        put(file, offset, data)

    monkeypatch.setattr(PartialFile, "_put", record)
    content = np.random.default_rng(0).bytes(5 * large + 12345)
    file = PartialFile(tmp_path / TARGET, len(content))
    at = 16384
    for size in (1000, large, 1, 3 * large - 5, 7):
        file.write(at, memoryview(content)[at : at + size])
        at += size
    at += 100  # a gap, zeros
    file.write(at, memoryview(content)[at:])
    file.write(0, memoryview(content)[:16384])
    file.publish()
    found = (tmp_path / TARGET).read_bytes()
    assert found == content[: at - 100] + bytes(100) + content[at:]
    inner = [(offset, n) for offset, n in places if n and offset not in (0, 16384)]
    assert all(offset % large == 0 for offset, _ in inner)
    assert all(n % large == 0 for offset, n in inner if offset + n < len(content))


ORDER = ["matrix", "blk.0.expert.0", "norm"]


@pytest.mark.parametrize("order", list(itertools.permutations(DATA)))
def test_tensors_in_another_order_make_the_same_file(tmp_path: Path, order: list[str]) -> None:
    expected = write(tmp_path / TARGET).read_bytes()
    with ModelWriter(tmp_path / "other", METADATA, ENTRIES, order=order) as writer:
        for i, name in enumerate(order):
            assert writer.done == i
            assert writer.finished == {*order[:i]}
            half = len(DATA[name]) // 2
            writer.write(name, DATA[name][:half])
            writer.write(name, DATA[name][half:])
            assert (writer.read(name) == DATA[name]).all()
        writer.commit()
    assert (tmp_path / "other").read_bytes() == expected


def test_what_is_written_is_not_taken_for_padding(tmp_path: Path) -> None:
    expected = write(tmp_path / TARGET).read_bytes()
    order = ["matrix", "norm", "blk.0.expert.0"]  # the last one begins behind the matrix
    with ModelWriter(tmp_path / "other", METADATA, ENTRIES, order=order) as writer:
        for name in order:
            writer.write(name, DATA[name])
        writer.commit()
    assert (tmp_path / "other").read_bytes() == expected


def resumable(target: Path, results: dict[str, Any]) -> ModelWriter:
    return ModelWriter(target, METADATA, ENTRIES, resume=True, order=ORDER, results=results)


@pytest.mark.parametrize("damaged", [None, "tensor", "record"])
def test_results_come_back_with_their_tensors(tmp_path: Path, damaged: str | None) -> None:
    def zeros() -> dict[str, Any]:
        return {"cpumix.a": np.zeros((3, 2), np.float32), "cpumix.b": np.zeros((3, 1), np.float32)}

    results = zeros()
    places = {entry.name: i for i, entry in enumerate(ENTRIES)}
    with resumable(tmp_path / TARGET, results) as writer:
        for i, name in enumerate(ORDER[:2]):
            results["cpumix.a"][places[name]] = i + 1, i + 2
            results["cpumix.b"][places[name]] = i + 3
            writer.write(name, DATA[name])
    [path] = tmp_path.iterdir()
    if damaged:  # of the second tensor in the order, the third of the file
        with open(path, "r+b") as file:
            file.seek(16384 * 4 if damaged == "tensor" else 56 + 20 + 6)
            file.write(b"\xff")
    results = zeros()
    with resumable(tmp_path / TARGET, results) as writer:
        assert writer.done == (1 if damaged else 2)
        assert results["cpumix.a"].tolist() == [[0, 0], [1, 2], [0, 0] if damaged else [2, 3]]
        assert results["cpumix.b"].tolist() == [[0], [3], [0] if damaged else [4]]
        for name in ORDER[writer.done :]:
            results["cpumix.b"][places[name]] = 9
            writer.write(name, DATA[name])
        writer.commit()
    with open(tmp_path / TARGET, "rb") as stream:
        header = gguf.parse_header(stream, 16384 * 5, TARGET)
    assert header.metadata["cpumix.b"].tolist() == [9, 3, 9 if damaged else 4]


def test_another_order_is_another_conversion(tmp_path: Path) -> None:
    with resumable(tmp_path / TARGET, {}) as writer:
        writer.write("matrix", DATA["matrix"])
    with ModelWriter(tmp_path / TARGET, METADATA, ENTRIES, resume=True) as writer:
        assert writer.done == 0
