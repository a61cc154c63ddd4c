"""A finished file gets its name, and replaces nothing, whatever the file system can do."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from cpumix.store import naming
from cpumix.store.naming import rename_new

WAYS = ["_rename_unless_there", "_link", "_claim"]


@pytest.fixture(params=range(len(WAYS)), ids=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the ways before this one fail, as they do on some file systems."""

    def cannot(source: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    for name in WAYS[: request.param]:
        monkeypatch.setattr(naming, name, cannot)


def test_file_gets_its_name(way: None, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    rename_new(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_nothing_is_replaced(way: None, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("mine")
    with pytest.raises(FileExistsError):
        rename_new(tmp_path / "a", tmp_path / "b")
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("new", "mine")


def test_of_many_at_once_one_wins(way: None, tmp_path: Path) -> None:
    for n in range(8):
        (tmp_path / f"{n}").write_text(str(n))
    lost: list[int] = []

    def go(n: int) -> None:
        try:
            rename_new(tmp_path / f"{n}", tmp_path / "b")
        except FileExistsError:
            lost.append(n)

    threads = [threading.Thread(target=go, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = set(range(8)) - set(lost)
    assert (tmp_path / "b").read_text() == str(won)


def test_other_faults_are_told(way: None, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rename_new(tmp_path / "none", tmp_path / "b")
    if os.path.exists(tmp_path / "b"):  # claimed already
        assert (tmp_path / "b").stat().st_size == 0
