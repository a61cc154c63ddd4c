"""What is typed, as the command line reads it."""

from __future__ import annotations

import click

from cpumix.cli.main import main


def parse(name: str, words: list[str]) -> click.Context:
    """Return the context of a command that nobody runs.

    It has the parent that it has when it is typed: Click keeps a command's help option, names and
    all, as the first context had it.
    """
    parent = click.Context(main, info_name="cpumix", **main.context_settings)
    command = main.get_command(parent, name)
    assert command, f"no such command: {name}"
    return command.make_context(name, words, parent=parent)
