"""What a command is given as text, from standard input or a file, and what it says beside."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cpumix.errors import ConfigError
from cpumix.input_file import read_stream, read_text_input


def note_first_run() -> None:
    """Say on stderr that the kernels have to be compiled, or cannot be kept."""
    from cpumix.kernels.compile.jit import first_run_note

    if note := first_run_note():
        click.echo(note, err=True)


def read_stdin() -> str:
    """Return standard input without its last newline. Raises ConfigError if it is not text."""
    if sys.stdin is None:
        raise ConfigError("standard input: expected text, found it closed.")
    try:
        data = read_stream(sys.stdin.buffer)
    except OSError as error:
        raise ConfigError(f"standard input: cannot be read ({error.strerror}).") from error
    return _decode(data, "standard input").removesuffix("\n")


def read_file(path: Path) -> str:
    """Return a file's text. Raises ConfigError if it cannot be read, or is not text."""
    try:
        data = read_text_input(path)
    except OSError as error:
        raise ConfigError(f'text: cannot be read ({error.strerror}): "{path}".') from error
    return _decode(data, f'text "{path}"')


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: expected UTF-8 text, found byte 0x{data[error.start]:02x} "
            f"at position {error.start}."
        ) from error
