"""Cache folders: where they are, and that nobody else can have put something there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cpumix import cache_dir
from cpumix.cache_dir import CACHE_VARIABLE, cache_folder, cache_roots, fault

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners, no rights to write")


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the environment names."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return cache_roots()[0]


def test_folders_are_made_for_this_user_only(named: Path) -> None:
    before = os.umask(0)
    try:
        folder = cache_folder(named, "models")
    finally:
        os.umask(before)
    assert folder == named / "models"
    assert {stat.S_IMODE(place.stat().st_mode) for place in (named, folder)} == {0o700}
    assert cache_folder(named) == named


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720, 0o702])
@pytest.mark.parametrize("leaf", ["", "key"])
def test_folder_that_others_can_write_is_refused(named: Path, leaf: str, mode: int) -> None:
    assert cache_folder(named, "key")
    (named / leaf).chmod(mode)
    assert cache_folder(named, "key") is None
    assert fault(named / leaf) == "can be written by other users"


@pytest.mark.parametrize("leaf", ["", "key"])
def test_folder_of_another_user_is_refused(
    named: Path, leaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_folder(named, "key")
    if os.getuid():
        monkeypatch.setattr(os, "getuid", lambda: 4321)
    else:
        os.chown(named / leaf, 4321, -1)
    assert cache_folder(named, "key") is None
    assert fault(named / leaf) == "belongs to another user"


def test_folder_of_the_administrator_is_another_users(
    named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/tmp is: whatever lies there may be anyone's."""
    monkeypatch.setattr(cache_dir.os, "getuid", lambda: 4321)
    assert cache_folder(Path(tempfile.gettempdir()), "key-that-nobody-has") is None


@pytest.mark.parametrize("leaf", ["", "key"])
def test_link_is_not_followed(named: Path, tmp_path: Path, leaf: str) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    if leaf:
        named.mkdir(mode=0o700)
    (named / leaf if leaf else named).symlink_to(tmp_path / "elsewhere")
    assert cache_folder(named, "key") is None
    assert fault(named / leaf if leaf else named) == "is a link"


def test_usual_folder_is_closed_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A umask that lets groups write, as many systems have it, does no harm."""
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    root = cache_roots()[0]
    root.mkdir(parents=True)
    root.chmod(0o775)
    assert cache_folder(root, "key")
    assert stat.S_IMODE(root.stat().st_mode) == 0o755


def test_user_without_a_home_has_a_folder_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in (CACHE_VARIABLE, "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_roots() == [tmp_path / f"cpumix-{os.getuid()}"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="setpriv is a Linux program")
def test_unknown_user_without_home_can_ask_for_help_and_fit(tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("only root may become someone else")
    clean = {k: v for k, v in os.environ.items() if k not in ("HOME", CACHE_VARIABLE)}
    become = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    try:
        subprocess.run([*become, sys.executable, "-c", "import cpumix"], env=clean, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("another user cannot read this Python")
    for arguments in (["--help"], ["fit", "mixtral-8x7b", "--ram", "64G", "--no-probe"]):
        done = subprocess.run(
            [*become, sys.executable, "-m", "cpumix", *arguments],
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
