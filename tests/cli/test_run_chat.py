"""`cpumix run` with system texts, conversations and templates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_models import TEMPLATE
from click.testing import CliRunner, Result

import cpumix
from cpumix.cli.main import main

USER = {"role": "user", "content": "one two three"}
SYSTEM = {"role": "system", "content": "Be brief."}


def run(path: Path, *options: object) -> Result:
    arguments = ["run", str(path), "-n", "8", "--temperature", "0", *map(str, options)]
    return CliRunner().invoke(main, arguments)


def answer(path: Path, messages: list[dict[str, str]], **template: object) -> str:
    with cpumix.load(path) as model:
        return "".join(model.chat(messages, temperature=0, max_tokens=8, template=template)) + "\n"


def test_system_text(chat_model):
    told = run(chat_model, "-p", USER["content"], "--system", SYSTEM["content"])
    assert told.stdout == answer(chat_model, [SYSTEM, USER]) != answer(chat_model, [USER])
    assert run(chat_model, "-p", USER["content"]).stdout == answer(chat_model, [USER])


def test_messages_from_a_file(chat_model, tmp_path):
    file = tmp_path / "talk.json"
    begun = [USER, {"role": "assistant", "content": "four"}]
    for messages in ([SYSTEM, USER], [*begun, USER]):
        file.write_text(json.dumps(messages))
        assert run(chat_model, "--messages", file).stdout == answer(chat_model, messages)
    file.write_text(json.dumps(begun))  # ends with the model's own words: it goes on
    going_on = answer(chat_model, begun, continue_final_message=True)
    assert run(chat_model, "--messages", file).stdout == going_on
    file.write_text("[]")
    refused = run(chat_model, "--messages", file)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "expected at least one message" in refused.stderr


def test_another_template(chat_model, base_model, tmp_path):
    (tmp_path / "own.jinja").write_text(TEMPLATE)
    named = run(base_model, "-p", USER["content"], "--chat-template", tmp_path / "own.jinja")
    assert named.stdout == answer(chat_model, [USER])
    refused = run(base_model, "-p", "one", "--system", "two")
    assert refused.exit_code == 1
    assert "Use --raw, or name one with --chat-template" in refused.stderr


def test_drafts_change_no_text(chat_model):
    quoting = "one two three four five six " * 4
    plain = run(chat_model, "-p", quoting, "-n", 60)
    assert run(chat_model, "-p", quoting, "-n", 60, "--draft", "lookup").stdout == plain.stdout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "Expected a prompt with -p, a file that has it with -f, or --messages."),
        (["-p", "a", "--messages", "b"], "Expected a prompt with -p"),
        (["-p", "a", "--raw", "--system", "b"], "leave out --messages, --system"),
    ],
)
def test_what_contradicts_itself_is_refused(chat_model, options, sentence):
    result = run(chat_model, *options)
    assert result.exit_code == 2
    assert sentence in result.stderr.replace("\n", " ")
