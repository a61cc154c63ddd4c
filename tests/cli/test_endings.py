"""Outputs that take no more, and signals, end every command in a line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import CONFIGS, write_model

from cpumix.cli import endings
from cpumix.cli.main import COMMANDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is full"),
]
SAID = "cpumix: error: output: cannot be written to its end: No space left on device.\n"


def run(*arguments: object, full: str = "stdout") -> subprocess.CompletedProcess[str]:
    """Run a command whose stdout or stderr is a full disk."""
    with open("/dev/full", "w") as disk:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if full:
            streams[full] = disk
        command = [sys.executable, "-m", "cpumix", *map(str, arguments)]
        return subprocess.run(command, text=True, check=False, **streams)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), CONFIGS["moe"])


HELP = [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]


@pytest.mark.parametrize("arguments", HELP)
def test_help_on_a_full_disk(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (2 if "fit" in arguments else 1, SAID)


@pytest.mark.parametrize("command", ["inspect", "verify", "run", "perplexity", "convert", "export"])
def test_answers_on_a_full_disk(command: str, model: Path, tmp_path: Path) -> None:
    (text := tmp_path / "text").write_text("And they returned to the city. " * 20)
    arguments: dict[str, list[object]] = {
        "run": [model, "-p", "And", "-n", "4"],
        "perplexity": [model, text, "--context", "16", "--windows", "1"],
        "convert": [model.parent / "checkpoint", tmp_path / "a", "--precision", "int8", "--json"],
        "export": [model, tmp_path / "b", "--json"],
    }
    done = run(command, *arguments.get(command, [model]))
    assert done.returncode == 1
    assert done.stderr.endswith(SAID)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_fit_cannot_answer_on_a_full_disk(arguments: list[str]) -> None:
    done = run("fit", "mixtral-8x7b", "--ram", "64G", "--no-probe", *arguments)
    assert (done.returncode, done.stderr) == (2, SAID)


@pytest.mark.parametrize("option", ["--stats-json", "--trace"])
def test_numbers_on_a_full_disk(option: str, model: Path) -> None:
    done = run("run", model, "-p", "And", "-n", "4", option, "/dev/full", full="")
    assert done.returncode == 1
    assert done.stderr.endswith(SAID)
    assert "Traceback" not in done.stderr


def test_stderr_on_a_full_disk(model: Path) -> None:
    """Nothing can be said; the status tells."""
    assert run("inspect", "/no/such/file", full="stderr").returncode == 1
    assert run("run", model, "-p", "And", "-n", "4", "--stats", full="stderr").returncode == 1


def test_pipe_that_closes_is_no_fault(model: Path) -> None:
    line = f"{sys.executable} -m cpumix run {model} -p And -n 200 | head -c 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr and b"error" not in done.stderr


def test_ignored_signals_stay_ignored() -> None:
    """As under nohup."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in ("SIGTERM", "SIGHUP")}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        endings.catch_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        with pytest.raises(endings.Ended) as ended:
            os.kill(os.getpid(), signal.SIGTERM)
        assert endings.end(ended.value) == 128 + signal.SIGTERM
        assert endings.end(KeyboardInterrupt()) == endings.INTERRUPTED
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


@pytest.mark.parametrize("command", ["run", "inspect", "verify", "convert", "fit", "perplexity"])
def test_name_that_no_system_takes(command: str, model: Path, tmp_path: Path) -> None:
    """It is shortened, and the sentence has one line."""
    rest = {"run": ["-p", "x"], "convert": [tmp_path / "x"], "perplexity": [tmp_path / "x"]}
    done = run(command, "x" * 300, *rest.get(command, []), full="")
    assert done.returncode == (2 if command == "fit" else 1)
    assert done.stderr.startswith("cpumix: error: ") and done.stderr.count("\n") == 1
    target = run("convert", model.parent / "checkpoint", tmp_path / ("x" * 300), full="")
    assert (target.returncode, target.stderr.count("\n")) == (1, 1)


def test_shard_whose_name_no_system_takes(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model.parent / "checkpoint", folder := tmp_path / "checkpoint")
    index = {"weight_map": {"a": "x" * 312 + ".safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    done = run("convert", folder, tmp_path / "m.bin", full="")
    assert done.returncode == 1
    assert "the index names it, but it is absent" in done.stderr and done.stderr.count("\n") == 1
