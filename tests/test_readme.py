"""Every command that the README shows really runs.

The fenced `sh` blocks are run line by line, in order, in one temporary folder. What a reader would
bring along is put there first: a folder that a `cpumix convert` line reads is a link to a tiny
checkpoint, a *.bin file that no line has made yet is the demo model, a *.txt file is some English.
`make` lines are checked against the Makefile instead of run inside the tests; lines that fetch or
install are left out. What would take minutes or gigabytes belongs in a `console` block.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cpumix.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINES = [
    line.strip().removeprefix("$ ")
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.strip().startswith("#")
]
NOT_RUN = re.compile(r"(python3? -m )?pip3? |git |cd |(python3? -m )?venv |(source|\.) ")
RUN = [line for line in LINES if not line.startswith("make ") and not NOT_RUN.match(line)]


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory, demo_model, checkpoint_folder):
    """A reader's folder, with stand-ins for the files that the README's lines name."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "tools").symlink_to(ROOT / "tools")
    made = set()
    for command in [words for line in RUN for words in words_of(line)]:
        if command[:2] == ["cpumix", "convert"]:
            source, target = command[2:4]
            if not (folder / source).exists():
                (folder / source).parent.mkdir(parents=True, exist_ok=True)
                (folder / source).symlink_to(checkpoint_folder, target_is_directory=True)
            made.add(target)
        for word in command:
            if word.endswith(".bin") and word not in made:
                (folder / word).symlink_to(demo_model)
                made.add(word)
            if word.endswith(".txt"):
                (folder / word).write_text("And they returned to the city. " * 100)
    programs = folder / ".programs"
    programs.mkdir()
    for name, arguments in {"cpumix": "-m cpumix", "python": "", "python3": ""}.items():
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    return folder


def test_readme_names_the_commands_of_a_fresh_clone():
    assert {"make demo", "make test"} <= set(LINES)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_target_exists(line):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(words_of(line)[0][1:]) <= set(targets)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_in_the_readme(command):
    assert f"cpumix {command}" in README


@pytest.mark.parametrize("line", RUN)
def test_command_runs(line, folder):
    path = f"{folder / '.programs'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or done.stderr or "convert" in line
