"""What `cpumix run` is asked: a prompt, a prompt with a system text, or a whole conversation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import click

from cpumix.conversation import messages_from_json
from cpumix.errors import ConfigError
from cpumix.input_file import read_text
from cpumix.messages import Message

from .texts import read_prompt, read_stdin


class Question(NamedTuple):
    """The text that the user gave, and what is asked of a chat template, if one was asked for."""

    text: str
    messages: list[Message]
    """Empty: the model's own template is taken if it has one."""
    template: Mapping[str, str | bool]
    """Arguments of `Tokenizer.encode_chat`."""


def read_question(
    prompt: str | None, file: Path | None, messages: Path | None, system: str, template: str | None
) -> Question:
    """Return what is asked, wherever it is; a last message of the assistant is continued.

    Raises ConfigError for what cannot be read, and UsageError unless there is one prompt.
    """
    if [prompt, file, messages].count(None) != 2:
        raise click.UsageError(
            "Expected a prompt with -p, a file that has it with -f, or --messages."
        )
    named: dict[str, str | bool] = {}
    if template is not None:
        named["chat_template"] = template
    head: list[Message] = [{"role": "system", "content": system}] if system else []
    if messages is not None:
        text = read_text(messages)
        told = messages_from_json(text, f'messages "{messages}"')
        if told[-1]["role"] == "assistant" and told[-1].get("content"):
            named["continue_final_message"] = True
        return Question(text, head + told, named)
    if file is not None:
        text = read_prompt(file)
    else:
        text = read_stdin() if prompt == "-" else _check(prompt or "")
    asked = bool(head or named)
    return Question(text, [*head, {"role": "user", "content": text}] if asked else [], named)


def _check(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # Python hands over undecodable arguments as surrogates
        raise ConfigError("prompt: expected UTF-8 text, found other bytes.") from error
    return prompt
