"""Temporary files: whole under a target's name or gone, and removed when their owner is dead."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpumix.store.temporary import create, remove_stale, temporary_files, whole_file


def test_target_is_whole_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with whole_file(target) as file:
        file.write(b"one")
        assert not target.exists()
        assert temporary_files(target) == [Path(file.name)]
    assert target.read_bytes() == b"one"
    with pytest.raises(KeyError), whole_file(target) as file:
        file.write(b"two")
        raise KeyError
    assert target.read_bytes() == b"one"
    with whole_file(target) as file:
        file.write(b"three")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"three")]


def test_only_files_of_the_dead_are_stale(tmp_path: Path) -> None:
    target = tmp_path / "a"
    (tmp_path / ".a.0123abcd.partial").write_bytes(b"half")
    (tmp_path / ".b.0123abcd.partial").write_bytes(b"another's")
    with whole_file(target):
        living = {path.name for path in temporary_files(target)} - {".a.0123abcd.partial"}
        remove_stale(target)
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {".b.0123abcd.partial"} | living
        assert len(living) == 1


def test_a_file_that_was_taken_for_stale_is_made_again(tmp_path, monkeypatch) -> None:
    """Another process may see a new file before its lock, and remove it."""
    fcntl = pytest.importorskip("fcntl")
    target, removed = tmp_path / "a", []

    def lock(fd: int, how: int) -> None:
        if not removed:
            removed.extend(temporary_files(target))
            removed[0].unlink()

    monkeypatch.setattr(fcntl, "flock", lock)
    fd, path = create(target)
    with open(fd, "wb"):
        assert temporary_files(target) == [path] != removed
