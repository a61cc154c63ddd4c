"""A conversion as a process: killed at any moment, interrupted, and measured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import make_checkpoint
import pytest
from click.testing import CliRunner
from make_checkpoint import synthetic_tokenizer

import cpumix

MIB = 1 << 20
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has neither SIGKILL nor SIGINT")

# Kills itself at a moment of a conversion: at a share of the progress, or in a function of os.
SUICIDE = """
import os, signal, sys
import cpumix
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
if moment.startswith("before "):
    setattr(os, moment.split()[1], die)
elif moment.startswith("after "):
    name = moment.split()[1]
    setattr(os, name, after(getattr(os, name)))
cpumix.convert(source, target, "int8", progress=progress)
"""
# Converts and prints its peak memory; peak_rss_bytes leaves out what a parent process took.
MEASURED = """
import sys
import cpumix
from cpumix.machine import peak_rss_bytes
report = cpumix.convert(sys.argv[1], sys.argv[2], sys.argv[3])
print(peak_rss_bytes())
"""


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    (tokenizer := folder / "made").write_bytes(synthetic_tokenizer(300))
    sizes = {"vocab_size": 300, "hidden_size": 128, "intermediate_size": 256}
    checkpoints.write_checkpoint(folder, checkpoints.MIXTRAL | sizes, tokenizer=tokenizer)
    tokenizer.unlink()
    return folder


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = tmp_path_factory.mktemp("whole") / "model.bin"
    cpumix.convert(source, target, "int8")
    return target.read_bytes()


@pytest.mark.parametrize(
    "moment",
    ["before posix_fallocate", "0", "50", "100", "before fsync", "before replace", "after replace"],
)
def test_killed_at_any_moment(source, converted, tmp_path, moment):
    target = tmp_path / "model.bin"
    killed = run(SUICIDE, source, target, moment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if moment == "after replace":
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


def make_large(folder: Path, experts: int) -> Path:
    """Write a checkpoint whose experts take 50 MB each, in tensors of a slice each."""
    options = "--layers 1 --hidden 1024 --intermediate 8192 --heads 8 --kv-heads 2 --vocab 512 "
    options += f"--experts {experts} --out {folder}"
    result = CliRunner().invoke(make_checkpoint.main, options.split())
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint of 600 MB."""
    folder = make_large(tmp_path_factory.mktemp("large") / "source", 12)
    yield folder
    shutil.rmtree(folder)


def test_interrupted_command_says_so_and_leaves_nothing(large, tmp_path):
    command = [sys.executable, "-m", "cpumix", "convert", str(large), str(tmp_path / "model.bin")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert (output, errors) == ("", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_model(large, tmp_path):
    small = make_large(tmp_path / "small", 4)
    peaks = []
    for source in (small, large):
        target = tmp_path / "model.bin"
        done = run(MEASURED, source, target, "int8")
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
        target.unlink()
    shutil.rmtree(small)
    assert max(peaks) < 700 * MIB  # far below what is promised, 1.5 GB
    assert peaks[1] < peaks[0] + 50 * MIB


def test_json_report_is_all_of_stdout(source, tmp_path):
    command = [sys.executable, "-m", "cpumix", "convert", str(source), str(tmp_path / "model.bin")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["tensors"] > 0
    assert done.stdout.count("\n") == 1
