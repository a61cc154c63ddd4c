"""`cpumix chat` in a terminal: keys, styles, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_models import write_chat_model

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
pytestmark = pytest.mark.slow

HANG_SECONDS = 120
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
WITHOUT = "import sys; sys.modules['prompt_toolkit'] = None; import importlib.util as u; "
WITHOUT += (
    "find = u.find_spec; u.find_spec = lambda n: None if n == 'prompt_toolkit' else find(n); "
)
WITHOUT += "from cpumix.cli.main import main; main()"


class Terminal:
    """A chat in a pseudo-terminal, and all that it has shown."""

    def __init__(
        self, path: Path, *options: str, code: str | None = None, state: Path | None = None
    ) -> None:
        self._ours, theirs = pty.openpty()
        program = ["-m", "cpumix"] if code is None else ["-c", code]
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
        kept = {"CPUMIX_NO_HISTORY": "1"} if state is None else {"XDG_STATE_HOME": str(state)}
        environment |= kept
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, *program, "chat", str(path), *options],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,  # Ctrl-C goes to it, not to the tests
            preexec_fn=_take_terminal,
        )
        os.close(theirs)
        self.shown = ""

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait(self, text: str) -> str:
        """Return what comes up to some text."""
        end = time.monotonic() + HANG_SECONDS
        while text not in self.shown:
            assert time.monotonic() < end, f"no {text!r} in {self.shown!r}"
            piece = self._read()
            assert piece, f"no {text!r} in {self.shown!r}"
            self.shown += piece
        before, _, self.shown = self.shown.partition(text)
        return before

    def wait_for_more(self, count: int) -> None:
        """Wait until so many characters have come, beside the blanks of a prompt drawn anew."""
        while len("".join(self.shown.split())) < count and (piece := self._read()):
            self.shown += piece

    def end(self) -> int:
        """Return the exit status."""
        while piece := self._read():
            self.shown += piece
        os.close(self._ours)
        return self.process.wait(HANG_SECONDS)

    def _read(self) -> str:
        """Return what is shown next, without control sequences; nothing at the end."""
        while True:
            ready, _, _ = select.select([self._ours], [], [], HANG_SECONDS)
            try:
                piece = os.read(self._ours, 1 << 16).decode(errors="replace") if ready else ""
            except OSError:  # Linux says so when the other side is closed
                return ""
            if "\x1b[6n" in piece:  # where is the cursor?
                self.type("\x1b[1;1R")
            if not piece or (text := _CONTROL.sub("", piece)):
                return text if piece else ""


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("chat"), max_position_embeddings=1 << 15)


@pytest.mark.parametrize("code", [None, WITHOUT], ids=["prompt_toolkit", "plain"])
def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(path, code):
    endless = ("--context", "30000", "--ignore-eos", "--threads", "1")
    terminal = Terminal(path, *endless, code=code)
    enter = "\r" if code is None else "\n"
    terminal.wait("Ctrl-D leaves")
    terminal.wait(">")
    terminal.type(f"one two three{enter}")
    terminal.wait("one two three")
    terminal.wait_for_more(120)
    terminal.type("\x03")
    terminal.wait("what is there of the answer stays")
    terminal.wait(">")
    if code is None:  # Python's own input() may miss the signal until the next key
        terminal.type("\x03")  # of a line that was not sent
        terminal.wait("Ctrl-D leaves")
        terminal.wait(">")
    terminal.type(f"/stats{enter}")
    shown = terminal.wait("1 turn")
    assert "of 30000 tokens" in shown
    terminal.wait(">")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.shown


def test_lines_can_be_edited_and_come_back(path):
    terminal = Terminal(path, "--max-tokens", "2", "--temperature", "0")
    terminal.wait(">")
    terminal.type("/system one\x1b\rtwo\r")  # Alt-Enter begins a line
    assert "one" in terminal.wait("system: one\r\ntwo")
    terminal.wait(">")
    terminal.type("/system three\r")
    terminal.wait("system: three")
    terminal.wait(">")
    terminal.type("\x1b[A\x1b[A")  # two lines up in the history: the second of the first message
    terminal.type("\x1b[A\x1b[A\r")
    terminal.wait(">")
    terminal.type("question\r")
    terminal.wait("it has 2 tokens")
    terminal.wait(">")
    terminal.type("/undone\r")
    terminal.wait('found "/undone"')  # a mistake does not end a chat with a person
    terminal.wait(">")
    terminal.type("/edit\r")
    terminal.wait("question")
    terminal.type(" and more\r")
    terminal.wait("it has 2 tokens")
    terminal.wait(">")
    terminal.type("\x04")
    assert terminal.end() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="where others keep it is told otherwise")
@pytest.mark.parametrize("code", [None, WITHOUT], ids=["prompt_toolkit", "plain"])
def test_what_was_typed_is_there_in_the_next_chat(path, tmp_path, code):
    enter = "\r" if code is None else "\n"
    for keys, options in (("/system kept", ()), ("\x1b[A", ()), ("/system not", ("--no-history",))):
        terminal = Terminal(path, *options, code=code, state=tmp_path)
        terminal.wait("Ctrl-D leaves")
        terminal.wait(">")
        terminal.type(keys + enter)
        terminal.wait("system: not" if options else "system: kept")
        terminal.wait(">")
        terminal.type("\x04")
        assert terminal.end() == 0
    (file,) = (tmp_path / "cpumix").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "kept" in file.read_text() and "not" not in file.read_text()


def test_a_signal_that_asks_it_to_end_ends_it(path):
    terminal = Terminal(path)
    terminal.wait("Ctrl-D leaves")
    terminal.wait(">")
    terminal.process.terminate()
    assert terminal.end() == 128 + signal.SIGTERM
