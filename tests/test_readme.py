"""Every command that the README and the pages of docs/ show really runs.

A fenced `sh` block is run line by line in a folder of its own. What a reader would bring along is
put there first: a folder that `cpumix convert` reads is a link to a tiny checkpoint, a *.bin file
that no line of the block makes is a tiny model, a *.txt file is some English. `cpumix` lines
without a pipe run in this process, which saves the start of one. `make` lines are compared with the
Makefile. A folder "moods" is a classifier.

A `console` block shows output. It is run and compared if that is the same everywhere; otherwise it
is listed in `NEEDS` with what a test machine lacks, and only its options are checked. So are
commands within a sentence. `python` blocks are run too.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner
from command_line import parse

import cpumix
from cpumix.cli.main import COMMANDS, main
from cpumix.errors import ConfigError
from cpumix.fit.known_models import known_model
from cpumix.memory.mixing import most_bits
from cpumix.quant.precision import PRECISIONS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in PAGES}
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
EXTRAS = re.findall(r"^(\w+) = \[", PROJECT.partition("[project.optional-dependencies]")[2], re.M)
# The first words of commands that are not run here, and what they need.
NEEDS = {
    "cpumix batch questions.jsonl answers.jsonl -m /shared/mixtral.bin --ray": (
        "a Ray cluster; tests/batch/test_ray.py has one"
    ),
    "cpumix bench": "gigabytes of memory, and minutes of a quiet machine",
    "cpumix convert CHECKPOINT": "a model so large that the padding of its tensors is nothing",
    "cpumix serve": "clients; tests/serve/test_docs.py runs it",
    "curl": "a server; so does that",
    "docker": "docker",
    "python tools/bench_paging.py": "root, for a control group, and minutes of a quiet disk",
    "python tools/compare_formats.py": "a checkpoint, and minutes",
    "python tools/compare_llama_cpp.py": "llama.cpp",
    "python tools/compare_llama_types.py": "llama.cpp",
    "python tools/compare_parallel.py": "llama.cpp",
    "python tools/load.py": "llama-server, and minutes of a quiet machine",
    "python tools/soak_server.py": "minutes",
    "python tools/make_big_model.py": "25 GB of disk",
    "python tools/make_checkpoint.py": "6.3 GB of disk",
    "python tools/measure_conversion.py": "20 GB of disk, and minutes of a quiet machine",
}


class Block(NamedTuple):
    """A fenced block of a page."""

    place: str  # page and line
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """The commands, one a line; of a console, those after the prompt "$"."""
        lines = [line.strip() for line in self.text.replace("\\\n", " ").splitlines()]
        if self.language == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line and not line.startswith("#")]


def blocks_of(page: str) -> list[Block]:
    return [
        Block(f"{page}:{TEXTS[page][: found.start()].count(chr(10)) + 1}", found[1], found[2])
        for found in re.finditer(r"^```(\S*)\n(.*?)^```$", TEXTS[page], re.MULTILINE | re.DOTALL)
    ]


BLOCKS = [block for page in TEXTS for block in blocks_of(page)]


def each(language: str) -> pytest.MarkDecorator:
    """Run a test on each block of a language."""
    blocks = [block for block in BLOCKS if block.language == language]
    if language == "python":  # of others' tests: test_contributing.py, batch/test_ray.py, ...
        others = ("CONTRIBUTING", "docs/batches", "docs/serving")
        blocks = [block for block in blocks if not block.place.startswith(others)]
    return pytest.mark.parametrize("block", blocks, ids=[block.place for block in blocks])


def words_of(line: str) -> list[list[str]]:
    """Split a line into the words of each command of its pipeline."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if word in ("|", "&&", ";", "||"):
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def need_of(line: str) -> str | None:
    """Return the key of `NEEDS` for a command."""
    return next((start for start in NEEDS if line.startswith(start)), None)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory, checkpoint_folder) -> Path:
    cpumix.convert(
        checkpoint_folder, target := tmp_path_factory.mktemp("docs") / "model.bin", "int8"
    )
    return target


@pytest.fixture
def reader(tmp_path, monkeypatch, tiny_model, checkpoint_folder, classifier_file):
    """Fill a reader's folder with stand-ins for what a block's lines name, and go there."""

    def prepare(block: Block) -> None:
        (tmp_path / "tools").symlink_to(ROOT / "tools")
        text = block.text if block.language == "python" else "\n".join(block.lines)
        converts = re.findall(r"^cpumix convert (\S+) (\S+)", text, re.MULTILINE)
        converts += re.findall(r'^cpumix\.convert\("(\S+)", "(\S+)"', text, re.MULTILINE)
        for source, _ in converts:
            folder = (
                classifier_file.parent / "checkpoint" if source == "moods" else checkpoint_folder
            )
            if not (tmp_path / source).exists():
                (tmp_path / source).symlink_to(folder, target_is_directory=True)
        for name in set(re.findall(r"[\w-]+\.bin\b", text)) - {target for _, target in converts}:
            (tmp_path / name).symlink_to(tiny_model)
        for name in set(re.findall(r"[\w-]+\.txt\b", text)):
            (tmp_path / name).write_text("And they returned to the city.\n" * 200)

    programs = tmp_path / ".programs"
    programs.mkdir()
    for name, arguments in {"cpumix": "-m cpumix", "python": "", "python3": ""}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return prepare


def run(line: str) -> str:
    """Run a line as a shell would; return what it writes to stdout."""
    commands = words_of(line)
    if len(commands) == 1 and commands[0][0] == "cpumix":
        result = CliRunner().invoke(main, commands[0][1:], prog_name="cpumix")
        assert result.exit_code == 0, result.output
        assert result.output
        return result.stdout
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or done.stderr
    return done.stdout


def check_options(line: str) -> None:
    """Hold a command that is not run against what its program knows."""
    words = words_of(line)[0]
    if words[0] == "cpumix":
        assert words[1] in COMMANDS, f"no such command: {line}"
        if "..." not in words:
            parse(words[1], words[2:])
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets)
    elif words[0] == "python":
        source = (ROOT / words[1]).read_text("utf-8")
        assert all(f'"{word}"' in source for word in words if word.startswith("--"))
    elif words[0] == "docker":
        assert words[1] == "run"
    elif words[0] == "curl":
        assert any(word.startswith("http://localhost:8080/") for word in words)
    else:
        (extra,) = re.findall(r"^pip install (?:\.|cpumix\[(\w+)\])$", " ".join(words))
        assert not extra or extra in EXTRAS


def test_every_block_is_of_a_kind_that_is_tested():
    assert {block.language for block in BLOCKS} <= {"sh", "console", "python"}
    lines = [line for block in BLOCKS if block.language == "console" for line in block.lines]
    assert {need_of(line) for line in lines} - {None} == set(NEEDS)


def test_readme_names_the_commands_of_a_fresh_clone():
    text = TEXTS["README.md"]
    assert "\n```sh\nmake demo\n```\n" in text
    assert "`make test`" in text
    assert "`make quick`" in text
    assert len(text.splitlines()) <= 125


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_documented(command):
    assert any(f"cpumix {command}" in text for text in TEXTS.values())


@pytest.mark.slow
@each("sh")
def test_lines_run(block, reader):
    reader(block)
    for line in block.lines:
        if line.startswith("make "):
            check_options(line)
        else:
            run(line)


@each("console")
def test_shown_output_is_what_comes(block, reader, monkeypatch):
    reader(block)
    monkeypatch.setattr("cpumix.cli.fit._is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    needs = [need_of(line) for line in block.lines]
    for line in block.lines:
        check_options(line)
    if None in needs:
        (line,) = block.lines  # else it would not be clear which output is whose
        assert block.text.partition("\n")[2].strip() == click.unstyle(run(line)).strip()


@pytest.mark.slow
@each("python")
def test_program_runs(block, reader, capsys):
    reader(block)
    exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


INLINE = [
    pytest.param(command, id=f"{page}: {command}")
    for page, text in TEXTS.items()
    for command in dict.fromkeys(re.findall(r"`(cpumix [^`]+|make [^`]+|pip install [^`]+)`", text))
]


@pytest.mark.parametrize("command", INLINE)
def test_command_in_a_sentence_exists(command):
    with contextlib.suppress(click.MissingParameter):  # a command without its model
        check_options(command)


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_paths_lead_somewhere(page):
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#]+)", TEXTS[page])
    paths = re.findall(r"(?<!/)\b(?:cpumix|tools|tests|docs)/[\w./-]*[\w/]", TEXTS[page])
    missing = [link for link in links if "://" not in link and not (folder / link).exists()]
    assert missing + [path for path in set(paths) if not (ROOT / path).exists()] == []


def test_mixes_of_the_readme_are_the_smallest_and_the_largest():
    (row,) = re.findall(r"^\| `mix-B` .*", TEXTS["README.md"], re.MULTILINE)
    config = known_model("mixtral-8x7b")
    least, most = (float(bits) for bits in re.findall(r"([\d.]+) to ([\d.]+) \|", row)[0])
    assert most == most_bits(config)
    for index, bits in enumerate((least, most)):
        plan = cpumix.plan(config, ram="64G", precision=f"mix-{bits:g}")
        found = [plan.file_bytes / 2**30, plan.total_bytes / 0.75 / 2**30]
        shown = [float(pair[index]) for pair in re.findall(r"([\d.]+) to ([\d.]+) GiB", row)]
        assert shown == pytest.approx(found, abs=0.05)
    with pytest.raises(ConfigError, match="precision: expected one of"):
        cpumix.plan(config, ram="64G", precision=f"mix-{least - 0.01:g}")


SIZES = r"^\| `(bf16|int8|int4|int3|int2)` \|.*\| ([\d.]+) \| ([\d.]+) GiB \| ([\d.]+) GiB \|$"


def test_all_levels_are_in_the_readme():
    rows = re.findall(SIZES, TEXTS["README.md"], re.MULTILINE)
    assert [name for name, *_ in rows] == list(PRECISIONS)


@pytest.mark.parametrize("row", re.findall(SIZES, TEXTS["README.md"], re.MULTILINE))
def test_sizes_in_the_readme_are_the_planned_ones(row):
    precision, *sizes = row
    plan = cpumix.plan(known_model("mixtral-8x7b"), ram="64G", precision=precision)
    memory = plan.total_bytes / 0.75  # the share that cpumix uses by itself
    found = [plan.bits_per_weight, plan.file_bytes / 2**30, memory / 2**30]
    assert [float(size) for size in sizes] == pytest.approx(found, abs=0.05, rel=0.01)
