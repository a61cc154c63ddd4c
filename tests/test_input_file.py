"""Pipes, devices and huge files in place of input end in a sentence: nothing waits, or reads on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import MIXTRAL, write_checkpoint
from model_files import write

import cpumix
from cpumix import input_file
from cpumix.errors import ConvertError, CpumixError, FormatError
from cpumix.input_file import read_input, read_text_input
from cpumix.store import ModelFile
from cpumix.store.bus_guard import guarded

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names"),
]
CONFIG = MIXTRAL | {"vocab_size": 300, "hidden_size": 40, "intermediate_size": 56}
FILES = ["config.json", "tokenizer.model", "model.safetensors"]


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cpumix", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, **options
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "source", CONFIG)
    (tmp_path / "source" / "generation_config.json").write_text("{}")
    return tmp_path / "source"


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
@pytest.mark.parametrize("name", FILES)
def test_pipe_or_device_in_a_checkpoint(source: Path, kind: str, name: str) -> None:
    (source / name).unlink()
    os.mkfifo(source / name) if kind == "a pipe" else (source / name).symlink_to("/dev/zero")
    with pytest.raises(CpumixError, match=f"expected a regular file, found {kind}"):
        cpumix.convert(source, source.parent / "m.bin", "int8")


@pytest.mark.parametrize("name", ["generation_config.json", "chat_template.jinja"])
def test_pipe_that_the_model_does_without(source: Path, name: str) -> None:
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    (note,) = cpumix.convert(source, source.parent / "m.bin", "int8").notes
    assert f'/{name}": ' in note
    assert note.endswith(": expected a regular file, found a pipe. Went on without it.")


INVOKE = """
import sys
from click.testing import CliRunner
from cpumix.cli.main import main
command, names, *rest = sys.argv[1:]
for name in names.split():
    result = CliRunner().invoke(main, [command, name, *rest])
    print(name, result.exit_code, result.stderr.splitlines()[-1])
"""
NAMES = ["x", "x.gguf", "x.bin", "x.npz", "x.safetensors"]


@pytest.mark.parametrize("command", ["run", "inspect", "verify", "convert", "fit", "export"])
def test_pipe_as_what_a_command_reads(tmp_path: Path, command: str) -> None:
    for name in NAMES:
        os.mkfifo(tmp_path / name)
    rest = {"run": ["-p", "x"], "convert": ["m.bin"], "export": ["m.gguf"]}.get(command, [])
    done = subprocess.run(  # a process of its own, for what waits for ever
        [sys.executable, "-c", INVOKE, command, " ".join(NAMES), *rest],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    code = 2 if command == "fit" else 1
    lines = done.stdout.splitlines()
    assert len(lines) == len(NAMES)
    for name, line in zip(NAMES, lines, strict=True):
        assert line.startswith(f"{name} {code} cpumix: error: ")


def test_text_may_come_through_a_pipe(tmp_path: Path) -> None:
    """As shells make one of <(COMMAND); one that nobody writes to is an empty text."""
    read, written = os.pipe()
    os.write(written, b"some text")
    os.close(written)
    assert read_text_input(Path(f"/dev/fd/{read}")) == b"some text"
    os.close(read)
    os.mkfifo(tmp_path / "pipe")
    assert read_text_input(tmp_path / "pipe") == b""
    with pytest.raises(OSError, match="found a device"):
        read_text_input(Path("/dev/zero"))


def test_prompt_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/zero") as endless:
        done = run("run", "-p", "-", stdin=endless)
    assert done.returncode == 1
    said = "cpumix: error: standard input: cannot be read (expected at most 256.0 MiB, found more)"
    assert done.stderr.startswith(said)


def test_file_of_six_gigabytes(tmp_path: Path, source: Path) -> None:
    with open(source / "tokenizer.model", "wb") as file:
        file.truncate(6 << 30)
    with pytest.raises(ConvertError, match=r"expected at most 256.0 MiB, found more"):
        cpumix.convert(source, source.parent / "m.bin", "int8")


def test_limits_are_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert read_input(tmp_path / "a", 100) == b"x" * 100
    with pytest.raises(OSError, match="expected at most 99 bytes, found more"):
        read_input(tmp_path / "a", 99)


def test_every_input_is_opened_here() -> None:
    """Plain `open` waits for a pipe, and `read_bytes` reads without end."""
    package = Path(input_file.__file__).parent
    own = {"input_file.py", "machine.py", "fit/probe.py", "tokenizer/mistral.py"}
    for path in package.rglob("*.py"):
        name = path.relative_to(package).as_posix()
        if name in own or name.startswith("kernels/compile/"):
            continue
        text = path.read_text(encoding="utf-8")
        assert ".read_bytes()" not in text and ".read_text(" not in text, name
        for line in text.splitlines():
            makes = any(mode in line for mode in ('"wb"', '"xb"', '"w"', "def open("))
            assert " open(" not in line or "opener=regular" in line or makes, (name, line)


CUT = """
import os, sys
import cpumix
from cpumix.store import ModelFile
from cpumix.verifier import verify
command, path = sys.argv[1:]
def progress(done, total):
    if os.path.getsize(path) > 40000:
        os.truncate(path, 40000)
if command == "export":
    cpumix.export(path, path + ".gguf", progress=progress)
with ModelFile(path) as file:
    verify(file, progress)
"""


@pytest.mark.parametrize("command", ["verify", "export"])
def test_file_cut_short_while_all_of_it_is_read(source: Path, command: str) -> None:
    """The system answers with SIGBUS, which ends a process that does not catch it."""
    cpumix.convert(source, model := source.parent / "m.bin", "int8")
    program = [sys.executable, "-c", CUT, command, str(model)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cpumix.errors.FormatError: ")
    assert "found 40000: the file was cut short while in use" in last
    assert sorted(path.name for path in model.parent.iterdir()) == ["m.bin", "source"]


def test_guard_passes_on_what_is_no_fault_of_the_file(tmp_path: Path) -> None:
    with ModelFile(write(tmp_path / "m.bin")) as file:
        with pytest.raises(ZeroDivisionError), guarded(file):
            raise ZeroDivisionError
        with guarded(file):
            assert len(file.data("output_norm.weight"))
        os.truncate(file.path, 20000)
        with pytest.raises(FormatError, match="cut short while in use"), guarded(file):
            raise ZeroDivisionError
