"""A turn of a chat with a person: what cannot be answered leaves the conversation as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import cpumix
from cpumix.cli import chat
from cpumix.cli.main import main

QUESTION = "one two three"
LONG = "one two three four five six seven eight nine ten " * 40
Chat = Callable[..., Result]


class Typed:
    """Lines as a person types them: a mistake is told, and does not end the chat."""

    interactive = edits = True

    def __init__(self, *lines: str) -> None:
        self._lines = list(lines)

    def read(self, default: str = "") -> str | None:
        return self._lines.pop(0) if self._lines else None


@pytest.fixture
def hold(chat_model: Path, monkeypatch: pytest.MonkeyPatch) -> Chat:
    """Hold a chat of some lines with a person, greedily."""

    def run(*lines: str, context: int = 256, options: tuple[str, ...] = ("-n", "8")) -> Result:
        monkeypatch.setattr(chat, "open_input", lambda *_, **__: Typed(*lines))
        fixed = ["--temperature", "0", "--context", str(context)]
        result = CliRunner().invoke(main, ["chat", str(chat_model), *fixed, *options])
        assert result.exit_code == 0, result.output
        return result

    return run


def saved(path: Path) -> list[str]:
    """Return the texts of a conversation that was saved."""
    return [message["content"] for message in json.loads(path.read_text("utf-8"))]


def test_the_answer_that_regen_replaces_takes_no_room(hold):
    options = ("-n", "500", "--ignore-eos")
    once = hold(QUESTION, context=64, options=options)
    twice = hold(QUESTION, "/regen", context=64, options=options)
    assert "do not fit" not in twice.stderr
    assert twice.stdout == once.stdout * 2


def test_regen_leaves_out_no_turn_to_make_room_for_the_answer_it_replaces(hold):
    options = ("-n", "60", "--ignore-eos", "--on-full", "slide")
    shown = hold(QUESTION, QUESTION, "/regen", "/stats", options=options).stderr
    assert "left out" not in shown
    assert "2 turns" in shown


@pytest.mark.parametrize("line", [f"/edit {LONG}", LONG])
def test_a_question_that_does_not_fit_changes_nothing(hold, tmp_path, line):
    file = tmp_path / "talk.json"
    result = hold("six", QUESTION, line, f"/save {file}")
    assert "tokens of conversation do not fit into a context of 256" in result.stderr
    answers = result.stdout.splitlines()
    assert saved(file) == ["six", answers[0], QUESTION, answers[1]]


@pytest.mark.parametrize("line", ["/regen", "/edit six", "six"])
def test_what_the_model_refuses_changes_nothing(hold, tmp_path, line):
    file = tmp_path / "talk.json"
    result = hold(QUESTION, '/set logit_bias {"99999": 1}', line, f"/save {file}")
    assert "logit_bias: expected tokens below" in result.stderr
    assert saved(file) == [QUESTION, result.stdout.splitlines()[0]]


LONG_NUMBER = "1" * 5000  # more digits than Python reads


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/save ~nosuch/x", '/save: expected a user of this machine after ~, found "~nosuch/x"'),
        ("/load ~nosuch/x", '/load: expected a user of this machine after ~, found "~nosuch/x"'),
        ("/save a\0b", r'/save: expected the name of a file, found "a\x00b", which has a NUL'),
        ("/load a\0b", r'/load: expected the name of a file, found "a\x00b", which has a NUL'),
        (f"/save {'a' * 300}", "/save: a file cannot be written there (File name too long)"),
        (f'/set logit_bias {{"{LONG_NUMBER}": 1}}', "logit_bias: expected numbers by token id"),
        (f'/set logit_bias {{"1": {LONG_NUMBER[:400]}}}', "logit_bias: expected numbers by token"),
        (f"/set temperature {LONG_NUMBER}", "temperature: expected 0 or more, found '11111"),
        (f"/set temperature {LONG_NUMBER[:400]}", "temperature: expected 0 or more, found 11111"),
        (f"/set top_n_sigma {LONG_NUMBER[:400]}", "top_n_sigma: expected -1 (off), 0 (off) or"),
    ],
)
def test_what_a_command_cannot_take_does_not_end_the_chat(hold, line, sentence):
    result = hold(line, QUESTION)
    assert sentence in result.stderr
    assert result.stdout.strip()  # the answer to the question


def test_half_characters_are_not_saved(hold, tmp_path):
    file = tmp_path / "talk.json"
    file.write_text('[{"role": "user", "content": "\\ud800"}, {"role": "user", "content": "x"}]')
    result = hold(f"/load {file}", f"/save {tmp_path / 'other.json'}", "/reset", QUESTION)
    assert "found half of one in the conversation, U+D800. Begin anew with /reset" in result.stderr
    assert not (tmp_path / "other.json").exists()
    assert result.stdout.strip()


@pytest.mark.parametrize("line", ["/regen", "/edit six", "six"])
def test_no_answer_changes_nothing(hold, chat_model, tmp_path, line):
    with cpumix.load(chat_model) as model:
        end = model.tokenizer.eos_ids[0]
    file = tmp_path / "talk.json"
    result = hold(QUESTION, f'/set logit_bias {{"{end}": 100}}', line, f"/save {file}")
    assert "there is no answer: the conversation stays as it was" in result.stderr
    assert saved(file) == [QUESTION, result.stdout.splitlines()[0]]
