"""What the user of a chat types: from a terminal, with history and several lines, or from a pipe.

A message ends with its line, unless the line ends with a backslash or the message begins with three
quotation marks: then it goes on to the next three.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from typing import Any, Protocol

from .texts import read_line

QUOTES = '"""'
PROMPT, MORE = "> ", ". "


def is_unfinished(text: str) -> bool:
    """Tell whether a message goes on in the next line."""
    start = text.lstrip()
    if start.startswith(QUOTES):
        return len(start.rstrip()) < 2 * len(QUOTES) or not start.rstrip().endswith(QUOTES)
    return text.endswith("\\")


def clean(text: str) -> str:
    """Return a message without the marks that let it go on."""
    bare = text.strip()
    if bare.startswith(QUOTES):
        return bare.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
    return text.replace("\\\n", "\n").removesuffix("\\").strip()


class ChatInput(Protocol):
    """Where messages come from."""

    interactive: bool
    """Whether a person is typing."""
    edits: bool
    """Whether `read` can offer a text to be changed."""

    def read(self, default: str = "") -> str | None:
        """Return the next message, None at the end; `default` is there to be edited.

        Raises KeyboardInterrupt for Ctrl-C.
        """


class PlainInput:
    """Reads lines from standard input; asks for them where that is a terminal."""

    edits = False

    def __init__(self, interactive: bool) -> None:
        self.interactive = interactive
        if interactive and importlib.util.find_spec("readline"):
            importlib.import_module("readline")  # gives input() a history

    def read(self, default: str = "") -> str | None:  # noqa: D102
        text = self._line(PROMPT)
        while text is not None and is_unfinished(text):
            line = self._line(MORE)
            if line is None:
                break
            text = f"{text}\n{line}"
        return None if text is None else clean(text)

    def _line(self, prompt: str) -> str | None:
        if not self.interactive:
            return read_line()
        try:
            return input(prompt)
        except EOFError:
            return None


class TerminalInput:
    """Edits messages in the terminal by prompt_toolkit: several lines, history, completion."""

    interactive = edits = True

    def __init__(self, commands: Iterable[str]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()

        @keys.add("enter")
        def enter(event: Any) -> None:
            buffer = event.current_buffer
            if is_unfinished(buffer.text):
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter")  # Alt-Enter
        def newline(event: Any) -> None:
            event.current_buffer.insert_text("\n")

        self._session: PromptSession[str] = PromptSession(
            key_bindings=keys,
            multiline=True,
            prompt_continuation=MORE,
            completer=WordCompleter(sorted(commands), sentence=True),
            complete_while_typing=False,
        )

    def read(self, default: str = "") -> str | None:  # noqa: D102
        try:
            return clean(self._session.prompt(PROMPT, default=default))
        except EOFError:
            return None


def open_input(commands: Iterable[str]) -> ChatInput:
    """Return the best input that there is here."""
    interactive = bool(sys.stdin and sys.stdin.isatty() and sys.stdout.isatty())
    if interactive and importlib.util.find_spec("prompt_toolkit"):
        return TerminalInput(commands)
    return PlainInput(interactive)
