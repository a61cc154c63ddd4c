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
    """Return a prompt from standard input; see `read_prompt`. Raises ConfigError."""
    if sys.stdin is None:
        raise ConfigError("standard input: expected text, found it closed.")
    try:
        data = read_stream(sys.stdin.buffer)
    except OSError as error:
        raise ConfigError(f"standard input: cannot be read ({error.strerror}).") from error
    return _as_prompt(_decode(data, "standard input"))


def read_prompt(path: Path) -> str:
    """Return a prompt from a file, without its last newline and the marks of Windows' editors.

    Raises ConfigError if it cannot be read, or is not text.
    """
    return _as_prompt(read_file(path))


def _as_prompt(text: str) -> str:
    return text.replace("\r\n", "\n").removesuffix("\n")


def read_file(path: Path) -> str:
    """Return a file's text. Raises ConfigError if it cannot be read, or is not text."""
    try:
        data = read_text_input(path)
    except OSError as error:
        raise ConfigError(f'text: cannot be read ({error.strerror}): "{path}".') from error
    return _decode(data, f'text "{path}"')


def read_line() -> str | None:
    """Return the next line of standard input, None at the end. Raises ConfigError if not text."""
    if sys.stdin is None:
        raise ConfigError("chat: expected messages on standard input, found it closed.")
    data = sys.stdin.buffer.readline()
    return _decode(data, "standard input").rstrip("\r\n") if data else None


def chat_template(value: str) -> str:
    """Return the template in a file of this name, or else the name of a template."""
    path = Path(value)
    return read_file(path) if path.is_file() else value


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")  # without a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{where}: expected UTF-8 text, found byte 0x{data[error.start]:02x} "
            f"at position {error.start}."
        ) from error
