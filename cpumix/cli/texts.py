"""What a command is given as text, from standard input or a file, and what it says beside."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cpumix.errors import ConfigError
from cpumix.input_file import decode, read_stream, read_text


def note_first_run() -> None:
    """Say on stderr that the kernels have to be compiled, or cannot be kept."""
    from cpumix.kernels.compile.jit import first_run_note

    if note := first_run_note():
        click.echo(note, err=True)


def read_stdin() -> str:
    """Return a prompt from standard input; see `read_prompt`. Raises ConfigError."""
    if sys.stdin is None:
        raise ConfigError("standard input: expected text, found it closed.")
    try:
        data = read_stream(sys.stdin.buffer)
    except OSError as error:
        raise ConfigError(f"standard input: cannot be read ({error.strerror}).") from error
    return _as_prompt(decode(data, "standard input"))


def read_prompt(path: Path) -> str:
    """Return a prompt from a file, without its last newline and the marks of Windows' editors.

    Raises ConfigError if it cannot be read, or is not text.
    """
    return _as_prompt(read_text(path))


def _as_prompt(text: str) -> str:
    return text.replace("\r\n", "\n").removesuffix("\n")


def read_line() -> str | None:
    """Return the next line of standard input, None at the end. Raises ConfigError if not text."""
    if sys.stdin is None:
        raise ConfigError("chat: expected messages on standard input, found it closed.")
    data = sys.stdin.buffer.readline()
    return decode(data, "standard input").rstrip("\r\n") if data else None
