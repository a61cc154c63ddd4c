"""The line that says how far something is: for a person who watches, and gone at the end."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from cpumix.cli import progress
from cpumix.cli.chat import PlainScreen
from cpumix.cli.chat_session import ChatSession, ChatSettings
from cpumix.conversation import Conversation
from cpumix.sampling import SamplingParams


def test_prompt_status_is_one_line_with_the_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    status = progress.PromptStatus()
    for now[0], done in ((0.5, 1), (2.0, 10), (2.1, 11), (40.0, 50)):
        status(done, 100)
    shown = capsys.readouterr().err
    assert shown == "\rprompt: 10 of 100 tokens, 20.0 s left\rprompt: 50 of 100 tokens, 40.8 s left"
    status(100, 100)
    assert (
        capsys.readouterr().err == "\r" + " " * len("prompt: 50 of 100 tokens, 40.8 s left") + "\r"
    )
    status.clear()
    assert capsys.readouterr().err == ""


def test_prompt_status_is_for_terminals(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    status = progress.PromptStatus()
    now[0] = 9.0
    status(1, 2)
    status.clear()
    assert capsys.readouterr().err == ""


def test_line_status_is_one_line_and_gone_at_the_end(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.LineStatus(10, 2) as status:
        now[0] = 4.0
        status(4, SimpleNamespace(written_tokens=8))
        shown = capsys.readouterr().err
        bar = f"[{'#' * 8}{'-' * 12}]"
        assert shown == f"\r{bar} 4 of 10 lines, 12.0 s left, 2.0 tok/s, 8 tokens"
    assert capsys.readouterr().err == f"\r{' ' * (len(shown) - 1)}\r"
    status(5, SimpleNamespace(written_tokens=9))  # another thread, late
    assert capsys.readouterr().err == ""


def test_ctrl_c_in_a_chat_takes_the_line_of_the_prompt_away(monkeypatch, capsys):
    class Interrupted:
        """A text that is interrupted while its prompt is read."""

        text, token_ids, stop_reason, complete = "", [], "", True

        def __init__(self, status):
            self.status = status

        def __iter__(self):
            self.status(1, 10)
            raise KeyboardInterrupt

    monkeypatch.setattr(progress, "PATIENCE", 0)
    monkeypatch.setattr(progress, "NEWS", 0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    model = SimpleNamespace(
        context=64,
        tokenizer=SimpleNamespace(encode_chat=lambda messages, **template: [1, 2]),
        chat=lambda *asked, progress, **options: Interrupted(progress),
    )
    settings = ChatSettings(SamplingParams())
    session = ChatSession(model, settings, Conversation(), PlainScreen(), {}, False, True)
    session.ask("Hi")
    shown = capsys.readouterr().err
    line = "prompt: 1 of 10 tokens"
    assert shown.startswith(f"\r{line}\r{' ' * len(line)}\r")
    assert "there is no answer" in shown
