"""`cpumix chat` from a pipe: what is answered, what the commands do, what a full context does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chat_models import TEMPLATE
from click.testing import CliRunner, Result

import cpumix
from cpumix.cli.chat_commands import SLASH_COMMANDS
from cpumix.cli.main import main

QUESTION = "one two three"


def chat(path: Path, *lines: str, options: tuple[str, ...] = ()) -> Result:
    """Hold a conversation of some lines, greedily, in answers of 8 tokens."""
    fixed = ["--temperature", "0", "-n", "8", "--context", "256"]
    arguments = ["chat", str(path), *fixed, *options]
    return CliRunner().invoke(main, arguments, input="".join(f"{line}\n" for line in lines))


def answers(path: Path, *questions: str, system: str = "") -> list[str]:
    """Return what `Model.chat` says to each question, in one conversation."""
    messages = [{"role": "system", "content": system}] if system else []
    found = []
    with cpumix.load(path, context=256) as model:
        for question in questions:
            messages.append({"role": "user", "content": question})
            found.append("".join(model.chat(messages, temperature=0, max_tokens=8)))
            messages.append({"role": "assistant", "content": found[-1]})
    return found


def written(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def said(result: Result) -> list[str]:
    """Return the program's own lines, but for the notes that come with every short answer."""
    assert result.exit_code == 0, result.output
    return [line for line in result.stderr.splitlines() if "the answer ends here" not in line]


def test_each_line_is_a_message_and_stdout_has_the_answers_only(chat_model):
    result = chat(chat_model, QUESTION, "", "four five")
    assert written(result) == "".join(f"{a}\n" for a in answers(chat_model, QUESTION, "four five"))
    assert "it has 8 tokens, see /set" in result.stderr


def test_a_message_may_have_several_lines(chat_model):
    result = chat(chat_model, "one two \\", "three", '"""four', "", 'five"""', "//six")
    wanted = answers(chat_model, "one two \nthree", "four\n\nfive", "/six")
    assert written(result) == "".join(f"{answer}\n" for answer in wanted)


def test_system_text(chat_model):
    (told,) = answers(chat_model, QUESTION, system="ten ten")
    assert told != answers(chat_model, QUESTION)[0]
    assert written(chat(chat_model, QUESTION, options=("--system", "ten ten"))) == f"{told}\n"
    assert written(chat(chat_model, "/system ten ten", QUESTION)) == f"{told}\n"
    removed = chat(chat_model, "/system", "/system -", QUESTION, options=("--system", "ten ten"))
    assert written(removed) == f"{answers(chat_model, QUESTION)[0]}\n"
    assert said(removed) == ["system: ten ten", "there is no system text"]


def test_undo_and_reset_forget(chat_model):
    first, after = answers(chat_model, QUESTION, "four")
    assert written(chat(chat_model, QUESTION, "four", "/undo", "four")).endswith(f"\n{after}\n")
    assert written(chat(chat_model, "six", "/reset", QUESTION)).endswith(f"\n{first}\n")


def test_regen_answers_anew_and_edit_asks_something_else(chat_model):
    drawn = ("--temperature", "1.5", "--seed", "3")
    result = chat(chat_model, QUESTION, "/regen", "/regen", options=drawn)
    message, own = {"role": "user", "content": QUESTION}, ""
    with cpumix.load(chat_model, context=256) as model:
        for i in range(3):
            own += "".join(model.chat([message], temperature=1.5, seed=3 + i, max_tokens=8)) + "\n"
    assert written(result) == own
    wanted = [*answers(chat_model, "six"), *answers(chat_model, QUESTION, "four")]
    edited = written(chat(chat_model, "six", f"/edit {QUESTION}", "four"))
    assert edited == "".join(f"{answer}\n" for answer in wanted)


def test_save_and_load(chat_model, tmp_path):
    file = tmp_path / "talk.json"
    result = chat(chat_model, "/system Be brief.", QUESTION, f"/save {file}", f"/save {file}")
    assert result.exit_code == 0
    messages = json.loads(file.read_text("utf-8"))
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert f"{file}: 3 messages" in result.stderr
    going_on = written(chat(chat_model, f"/load {file}", "four"))
    assert going_on == answers(chat_model, QUESTION, "four", system="Be brief.")[1] + "\n"


def test_set_changes_how_answers_are_drawn(chat_model):
    lines = ("/set max_tokens 2", "/set temperature 0.5", '/set stop ["x"]', "/set seed", "/set")
    shown = said(chat(chat_model, *lines))
    assert shown[:4] == ["max_tokens 2", "temperature 0.5", 'stop ["x"]', "seed null"]
    assert 'on_full "stop"' in shown
    assert "top_k 40" in shown
    assert said(chat(chat_model, "/set max_tokens null", '/set logit_bias {"7": 1.5}'))[-2:] == [
        "max_tokens null",
        'logit_bias {"7": 1.5}',
    ]


def test_stats_and_help(chat_model):
    shown = "\n".join(said(chat(chat_model, QUESTION, "four", "/stats", "/help")))
    assert "generation  8 tokens" in shown
    assert "of 256 tokens, 2 turns" in shown
    assert all(f"\n{command.usage} " in f"\n{shown}" for command in SLASH_COMMANDS.values())


def test_only_the_new_turn_is_processed(chat_model):
    shown = "\n".join(said(chat(chat_model, QUESTION * 8, "four", "/stats")))
    reused = int(shown.partition("reused      ")[2].split()[0])
    with cpumix.load(chat_model, context=256) as model:
        first = model.tokenizer.encode_chat([{"role": "user", "content": QUESTION * 8}])
    assert reused >= len(first) - 1


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["/rest"], r'chat: expected one of /system, .*found "/rest"'),
        (["/undo"], "chat: expected a turn before this command"),
        (["/regen"], "expected a turn before this command, found none"),
        ([QUESTION, "/edit"], "/edit: expected the new question after it"),
        (["/save"], "/save: expected the name of a file after it"),
        (["/save ."], "/save: expected a new file, found one"),
        ([QUESTION, "/save no/such/folder"], "a file cannot be written there"),
        (["/load no-such-file"], "cannot be read"),
        (["/set colour red"], "/set: expected one of max_tokens, on_full"),
        (["/set temperature hot"], "temperature: expected 0 or more, found 'hot'"),
        (["/set on_full jump"], 'on_full: expected stop or slide, found "jump"'),
        (["/set max_tokens 0"], 'expected 1 or more, or null for no limit, found "0"'),
    ],
)
def test_what_a_command_does_not_mean_ends_a_piped_chat(chat_model, lines, sentence):
    result = chat(chat_model, *lines)
    assert result.exit_code == 1
    assert re.search(sentence, result.stderr), result.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "expected messages as JSON, found text that is none"),
        ('{"a": 1}', "expected a JSON list of messages, found"),
        ("[1]", "a JSON list of messages"),
        ("[]", "chat: expected at least one message"),
        ('[{"role": "user"}]', "chat message 1: expected a text as role"),
    ],
)
def test_load_refuses_what_is_no_conversation(chat_model, tmp_path, text, sentence):
    (tmp_path / "talk.json").write_text(text)
    result = chat(chat_model, f"/load {tmp_path / 'talk.json'}")
    assert result.exit_code == 1
    assert sentence in result.stderr


LONG = "one two three four five six seven eight nine ten " * 2


def test_a_full_context_stops_and_says_so(chat_model):
    result = chat(chat_model, *[LONG] * 9)
    assert result.exit_code == 1
    assert "tokens of conversation do not fit into a context of 256" in result.stderr
    begun = chat(chat_model, LONG, options=("-n", "500", "--ignore-eos"))
    assert "the context of 256 tokens is full: the answer ends here" in begun.stderr
    assert begun.exit_code == 0
    with cpumix.load(chat_model, context=256) as model:
        message = {"role": "user", "content": LONG.strip()}
        answer = model.chat([message], temperature=0, ignore_eos=True)
        assert begun.stdout == "".join(answer) + "\n"


def test_a_full_context_slides_and_says_so(chat_model):
    slide = ("--on-full", "slide", "--system", "Be brief.")
    result = chat(chat_model, *[LONG] * 9, "/stats", options=slide)
    shown = "\n".join(said(result))
    assert len(written(result).splitlines()) >= 9
    assert "is full: the oldest" in shown
    assert 0 < int(shown.partition(" turns, ")[2].split()[0]) < 9
    tokens, context = re.search(r"context +(\d+) of (\d+) tokens", shown).groups()
    assert int(tokens) <= int(context) == 256


def test_an_answer_goes_on_where_the_context_slides(chat_model):
    options = ("--on-full", "slide", "-n", "140", "--ignore-eos")
    result = chat(chat_model, LONG, LONG, options=options)
    assert result.exit_code == 0
    assert "the oldest turn left out" in result.stderr
    assert result.stderr.count("the answer ends here: it has 140 tokens") == 2  # and not more


def test_a_question_that_never_fits_is_refused(chat_model):
    result = chat(chat_model, LONG * 20, options=("--on-full", "slide"))
    assert result.exit_code == 1
    assert "do not fit into a context of 256" in result.stderr


def test_a_model_without_a_template_continues_the_text_and_says_so(base_model):
    result = chat(base_model, "one two", "three")
    assert "int8.bin has no chat template: it continues the text" in result.stderr
    with cpumix.load(base_model, context=256) as model:
        first = "".join(model.generate("one two", temperature=0, max_tokens=8))
        second = model.generate(f"one two{first}\nthree", temperature=0, max_tokens=8)
        assert written(result) == f"{first}\n{''.join(second)}\n"


def test_another_template_is_taken_by_name_or_from_a_file(base_model, chat_model, tmp_path):
    (tmp_path / "own.jinja").write_text(TEMPLATE)
    own = chat(base_model, QUESTION, options=("--chat-template", str(tmp_path / "own.jinja")))
    assert written(own) == f"{answers(chat_model, QUESTION)[0]}\n"  # the weights are the same
    long = f"{{# {'no name of a file is so long ' * 20} #}}{TEMPLATE}"
    spelled = chat(base_model, QUESTION, options=("--chat-template", long))
    assert written(spelled) == written(own)
    named = chat(base_model, QUESTION, options=("--chat-template", "mistral-v1"))
    assert written(named) != written(own)
    assert "has no chat template" not in named.stderr
    wrong = chat(chat_model, QUESTION, options=("--chat-template", "no-such"))
    assert wrong.exit_code == 1
    assert 'expected one named "no-such"' in wrong.stderr


def test_closed_input_is_told(chat_model):
    line = f'"{sys.executable}" -m cpumix chat "{chat_model}" <&-'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "expected messages on standard input, found it closed" in done.stderr
