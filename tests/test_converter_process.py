"""A conversion as a process: killed at any moment, interrupted, and measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from importlib import import_module
from pathlib import Path

import checkpoints
import make_checkpoint
import pytest
from click.testing import CliRunner

import cpumix
from cpumix.store.residency import LARGE_PAGE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="Windows has neither SIGKILL nor SIGINT"),
]

# Kills itself at a moment of a conversion: at a share of the progress, or in a function of os.
SUICIDE = """
import os, signal, sys
import cpumix, cpumix.store.partial
source, target, moment = sys.argv[1:]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def progress(done, total):
    if moment.isdigit() and done >= int(moment) / 100 * total:
        die()
def after(function):
    def call(*arguments):
        function(*arguments)
        die()
    return call
if " " in moment:
    when, name = moment.split()
    place = os if hasattr(os, name) else cpumix.store.partial
    setattr(place, name, die if when == "before" else after(getattr(place, name)))
cpumix.convert(source, target, "int8", progress=progress)
"""
# The command, which gets a Ctrl-C when it has written ten tensors.
INTERRUPTED = """
import os, signal
from cpumix.cli.main import main
from cpumix.store.writer import ModelWriter
write, written = ModelWriter.write, []
def interrupt(writer, name, data):
    write(writer, name, data)
    written.append(name)
    if len(written) == 10:
        os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
ModelWriter.write = interrupt
main()
"""


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    sizes = {"vocab_size": 300, "hidden_size": 128, "intermediate_size": 256}
    checkpoints.write_checkpoint(folder, checkpoints.MIXTRAL | sizes)
    return folder


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = tmp_path_factory.mktemp("whole") / "model.bin"
    cpumix.convert(source, target, "int8")
    return target.read_bytes()


@pytest.mark.parametrize(
    "moment",
    [
        "before posix_fallocate",
        "0",
        "50",
        "100",
        "before fsync",
        "before rename_new",
        "after rename_new",
    ],
)
def test_killed_at_any_moment(source, converted, tmp_path, moment):
    target = tmp_path / "model.bin"
    killed = run(SUICIDE, source, target, moment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if moment == "after rename_new":
        assert target.read_bytes() == converted
    else:
        assert not target.exists()
        assert len(list(tmp_path.iterdir())) == 1  # what the next conversion removes
        cpumix.convert(source, target, "int8")
        assert target.read_bytes() == converted
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


def test_killed_while_replacing_keeps_the_old_file(source, converted, tmp_path):
    target = tmp_path / "model.bin"
    target.write_text("mine")
    program = SUICIDE.replace('"int8", ', '"int8", force=True, ')
    assert run(program, source, target, "before replace").returncode == -signal.SIGKILL
    assert target.read_text() == "mine"
    cpumix.convert(source, target, "int8", force=True)
    assert target.read_bytes() == converted


@pytest.mark.parametrize(
    ("signal_name", "status", "said"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "ended"), ("SIGHUP", 129, "ended")],
)
def test_interrupted_command_says_so_and_leaves_nothing(
    source, tmp_path, monkeypatch, signal_name, status, said
):
    monkeypatch.setenv("SIGNAL", signal_name)
    done = run(INTERRUPTED, "convert", source, tmp_path / "model.bin")
    assert done.returncode == status, done.stderr
    assert (done.stdout, done.stderr) == ("", f"{said}\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_for_later_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGNAL", "SIGTERM")
    done = run(INTERRUPTED, "convert", source, tmp_path / "model.bin", "--resume")
    (kept,) = tmp_path.iterdir()
    assert (done.returncode, done.stderr) == (143, f'kept for --resume: "{kept}"\nended\n')


def make_large(folder: Path, experts: int) -> Path:
    """Write a checkpoint whose experts take 3 MiB each."""
    options = "--layers 1 --hidden 512 --intermediate 1024 --heads 8 --kv-heads 2 --vocab 512 "
    options += f"--experts {experts} --out {folder}"
    result = CliRunner().invoke(make_checkpoint.main, options.split())
    assert result.exit_code == 0, result.output
    return folder


def test_memory_does_not_grow_with_the_model(tmp_path, monkeypatch):
    """A few slices exist at a time, and what the writer collects to a large page, twice."""
    monkeypatch.setattr(import_module("cpumix.converter.slices"), "SLICE_BYTES", size := 1 << 20)
    source, target = make_large(tmp_path / "source", experts=16), tmp_path / "model.bin"
    cpumix.convert(source, target, "int8")  # compiles
    tracemalloc.start()
    cpumix.convert(source, target, "int8", force=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    most = 4 * size + 2 * LARGE_PAGE
    assert size < peak < most < 0.33 * target.stat().st_size


def test_json_report_is_all_of_stdout(source, tmp_path):
    command = [sys.executable, "-m", "cpumix", "convert", str(source), str(tmp_path / "model.bin")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["tensors"] > 0
    assert done.stdout.count("\n") == 1
