"""The file that keeps what was typed: this user's, not too long, and no reason to stop."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from cpumix.cli import chat_history
from cpumix.cli.chat_history import MOST_BYTES, history_file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(chat_history, "_user_state", lambda: tmp_path / "state")
    return tmp_path / "state" / "cpumix"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of other systems")
def test_only_this_user_reads_it(home: Path) -> None:
    path = history_file("lines")
    assert path == home / "lines"
    assert [stat.S_IMODE(p.stat().st_mode) for p in (home, path)] == [0o700, 0o600]
    path.chmod(0o644)
    assert history_file("lines") == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("between", ["\n\n", "\n"])
def test_older_half_of_a_long_one_is_forgotten(home: Path, between: str) -> None:
    home.mkdir(parents=True)
    entries = [f"# {i}{'x' * 90}" for i in range(12_000)]
    (home / "lines").write_bytes(between.join(entries).encode())
    path = history_file("lines")
    assert path is not None
    kept = path.read_bytes().decode().split(between)
    assert kept == entries[-len(kept) :]
    assert MOST_BYTES / 3 < path.stat().st_size <= MOST_BYTES / 2


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_no_place_for_it_is_no_reason_to_stop(home: Path, tmp_path: Path) -> None:
    home.mkdir(parents=True)
    (tmp_path / "other").write_text("somebody's")
    (home / "link").symlink_to(tmp_path / "other")
    (home / "folder").mkdir()
    assert history_file("link") is None
    assert history_file("folder") is None
    assert (tmp_path / "other").read_text() == "somebody's"
