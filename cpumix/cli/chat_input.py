"""What the user of a chat types: from a terminal, with history and several lines, or from a pipe.

A message ends with its line, unless the line ends with a backslash or the message begins with three
quotation marks: then it goes on to the next three.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from .chat_history import history_file
from .texts import read_line

QUOTES = '"""'
PROMPT, MORE = "> ", ". "
MOST_LINES = 1000  # that input() keeps for the next chat


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

    def __init__(self, interactive: bool, keeps_history: bool = False) -> None:
        self.interactive = interactive
        self._readline: Any = None
        self._file: Path | None = None
        if interactive and importlib.util.find_spec("readline"):
            self._readline = importlib.import_module("readline")  # gives input() a history
            self._file = history_file("chat-lines") if keeps_history else None
        if self._file is not None:
            with suppress(OSError):
                self._readline.read_history_file(self._file)
            self._readline.set_history_length(MOST_LINES)

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
            line = input(prompt)
        except EOFError:
            return None
        if self._file is not None:
            with suppress(OSError):
                self._readline.write_history_file(self._file)
        return line


class TerminalInput:
    """Edits messages in the terminal by prompt_toolkit: several lines, history, completion."""

    interactive = edits = True

    def __init__(self, commands: Iterable[str], keeps_history: bool) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, InMemoryHistory
        from prompt_toolkit.key_binding import KeyBindings

        class KeptHistory(FileHistory):
            def store_string(self, string: str) -> None:
                with suppress(OSError):  # of a full disk, say: a chat goes on without
                    super().store_string(string)

        file = history_file("chat-history") if keeps_history else None

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
            history=InMemoryHistory() if file is None else KeptHistory(str(file)),
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


def open_input(commands: Iterable[str], keeps_history: bool) -> ChatInput:
    """Return the best input that there is here; what is typed may be kept for the next chat."""
    interactive = bool(sys.stdin and sys.stdin.isatty() and sys.stdout.isatty())
    if interactive and importlib.util.find_spec("prompt_toolkit"):
        return TerminalInput(commands, keeps_history)
    return PlainInput(interactive, keeps_history)
