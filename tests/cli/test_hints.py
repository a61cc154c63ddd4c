"""Options that are named, in hints and in messages: each exists, where it is named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import cpumix
from cpumix.cli.hints import HINTS
from cpumix.cli.main import COMMANDS, main


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("perplexity --ctx-size", "No such option: --ctx-size. Use --context."),
        ("serve --n-predict", ""),
        ("convert --no-mmap", "No such option: --no-mmap. Use --ram to say"),
        ("perplexity --no-mmap", ""),
        ("classify --chat-template", ""),
        ("chat --no-conversation", ""),
    ],
)
def test_hint_names_what_the_command_has(typed, hint):
    result = CliRunner().invoke(main, [*typed.split(), "9"])
    assert result.exit_code == 2
    assert hint in result.stderr
    assert hint or "Use -" not in result.stderr


OTHER_PROGRAMS = re.compile(r"`(?!cpumix)[^`]*`")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def test_every_option_that_is_named_exists():
    commands = [main.get_command(click.Context(main), name) for name in COMMANDS]
    ours = {name for command in commands for param in command.params for name in param.opts}
    known = ours | {"--help", "--version", *HINTS}
    named = {
        (path.name, option)
        for path in Path(cpumix.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for option in OPTION.findall(OTHER_PROGRAMS.sub("", node.value))
    }
    assert len(named) > 60
    assert {(file, option) for file, option in named if option not in known} == set()
    assert not ours & set(HINTS)
    assert {name for hint in HINTS.values() for name in hint.ours} <= ours
