"""What begins with a slash in a chat: commands to the program, not words to the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from cpumix.conversation import Conversation, messages_from_json, messages_to_json
from cpumix.errors import ConfigError, quoted
from cpumix.input_file import read_text
from cpumix.sampling import SamplingParams
from cpumix.sampling.params import token_id

from .chat_input import ChatInput
from .chat_session import ON_FULL, ChatSession


class ChatCommand(NamedTuple):
    """One command: how it is written, what it does in words, and what it does."""

    usage: str
    help: str
    run: Callable[[ChatSession, str, ChatInput], None]


def obey(line: str, session: ChatSession, source: ChatInput) -> None:
    """Carry out a line that begins with a slash. Raises ConfigError for what it does not mean."""
    name, _, argument = line.partition(" ")
    if name not in SLASH_COMMANDS:
        raise ConfigError(
            f"chat: expected one of {', '.join(SLASH_COMMANDS)}, found {quoted(name)}. "
            "Begin with // what is meant for the model."
        )
    SLASH_COMMANDS[name].run(session, argument.strip(), source)


def _system(session: ChatSession, argument: str, source: ChatInput) -> None:
    conversation = session.conversation
    if argument:
        conversation.system = "" if argument == "-" else argument
    if conversation.system:
        session.screen.say(f"system: {conversation.system}")
    else:
        session.screen.say("there is no system text")


def _reset(session: ChatSession, argument: str, source: ChatInput) -> None:
    session.conversation.reset()
    session.screen.say("the conversation begins anew")


def _undo(session: ChatSession, argument: str, source: ChatInput) -> None:
    _last_question(session)
    session.conversation.undo()
    left = len(session.conversation.turns)
    session.screen.say(f"the last turn is forgotten: {left} left")


def _regen(session: ChatSession, argument: str, source: ChatInput) -> None:
    _last_question(session)
    session.ask_again()


def _edit(session: ChatSession, argument: str, source: ChatInput) -> None:
    question = _last_question(session)
    if not argument:
        if not source.edits:
            raise ConfigError("/edit: expected the new question after it, found none.")
        argument = source.read(question) or ""
    if argument:
        session.ask_instead(argument)


def _save(session: ChatSession, argument: str, source: ChatInput) -> None:
    path = _path("/save", argument)
    messages = session.conversation.messages
    try:
        if path.exists() and path.resolve() not in session.saved:
            raise ConfigError(
                f'/save: expected a new file, found one: "{path}". Choose another name.'
            )
        path.write_bytes(messages_to_json(messages).encode())
    except UnicodeEncodeError as error:
        raise ConfigError(
            "/save: expected whole characters, found half of one in the conversation, "
            f"U+{ord(error.object[error.start]):X}. Begin anew with /reset or another /system."
        ) from error
    except OSError as error:
        raise ConfigError(
            f'/save: a file cannot be written there ({error.strerror}): "{path}".'
        ) from error
    session.saved.add(path.resolve())
    session.screen.say(f"{path}: {len(messages)} messages")


def _load(session: ChatSession, argument: str, source: ChatInput) -> None:
    path = _path("/load", argument)
    messages = messages_from_json(read_text(path), f'/load "{path}"')
    session.conversation = Conversation.from_messages(messages)
    session.screen.say(f"{path}: {len(messages)} messages")


def _set(session: ChatSession, argument: str, source: ChatInput) -> None:
    name, _, text = argument.partition(" ")
    values = _settings(session)
    if not name:
        shown = (f"{key} {json.dumps(value)}" for key, value in values.items())
        session.screen.say("\n".join(shown))
        return
    if name not in values:
        raise ConfigError(f"/set: expected one of {', '.join(values)}, found {quoted(name)}.")
    if text.strip():
        _change(session, name, _value(text.strip()))
    session.screen.say(f"{name} {json.dumps(_settings(session)[name])}")


def _settings(session: ChatSession) -> dict[str, Any]:
    settings = session.settings
    names = [field.name for field in fields(SamplingParams) if field.name != "logprobs"]
    values = {name: getattr(settings.params, name) for name in names}
    return {"max_tokens": settings.max_tokens, "on_full": settings.on_full, **values}


def _change(session: ChatSession, name: str, value: Any) -> None:
    settings = session.settings
    if name == "on_full":
        if value not in ON_FULL:
            raise ConfigError(
                f"on_full: expected stop or slide, found {quoted(value)}. Choose one of them."
            )
        settings.on_full = value
    elif name == "max_tokens":
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(
                f"max_tokens: expected 1 or more, or null for no limit, found {quoted(value)}."
            )
        settings.max_tokens = value
    else:
        if name == "logit_bias" and isinstance(value, dict):
            ids = {key: token_id(key) for key in value}
            value = {key if ids[key] is None else ids[key]: bias for key, bias in value.items()}
        settings.params = replace(settings.params, **{name: value})


def _value(text: str) -> Any:
    """Return what a text is as JSON, or else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _stats(session: ChatSession, argument: str, source: ChatInput) -> None:
    lines = []
    if session.last is not None:
        stats = session.last.stats
        lines = [stats.summary(), f"reused      {stats.cached_tokens} tokens of the prompt"]
    tokens, context = session.tokens(), session.model.context
    turns = len(session.conversation.turns)
    out = session.conversation.left_out
    seen = f"{turns} turn{'s' * (turns != 1)}" + (f", {out} of them left out" if out else "")
    lines.append(f"context     {tokens} of {context} tokens, {seen}")
    session.screen.say("\n".join(lines))


def _help(session: ChatSession, argument: str, source: ChatInput) -> None:
    width = max(len(command.usage) for command in SLASH_COMMANDS.values())
    session.screen.say(
        "\n".join(f"{command.usage:{width}}  {command.help}" for command in SLASH_COMMANDS.values())
        + "\nA line that ends with \\ goes on in the next one; so does a text between "
        + '""" and """.\nCtrl-C stops the answer, Ctrl-D leaves.'
    )


def _last_question(session: ChatSession) -> str:
    question = session.conversation.question
    if question is None:
        raise ConfigError("chat: expected a turn before this command, found none. Ask something.")
    return question


def _path(command: str, argument: str) -> Path:
    if not argument:
        raise ConfigError(f"{command}: expected the name of a file after it, found nothing.")
    try:
        path = Path(argument).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{command}: expected a user of this machine after ~, found {quoted(argument)}. "
            "Write ./~ for a file whose name begins so."
        ) from error
    if "\0" in argument:
        raise ConfigError(
            f"{command}: expected the name of a file, found {quoted(argument)}, which has a NUL "
            "character. Leave it out."
        )
    return path


SLASH_COMMANDS: Mapping[str, ChatCommand] = MappingProxyType(
    {
        "/system": ChatCommand(
            "/system [TEXT]", "show or set the system text; - for none", _system
        ),
        "/reset": ChatCommand("/reset", "begin anew; the system text stays", _reset),
        "/undo": ChatCommand("/undo", "forget the last question and its answer", _undo),
        "/regen": ChatCommand("/regen", "answer the last question anew", _regen),
        "/edit": ChatCommand("/edit [TEXT]", "change the last question, and ask it", _edit),
        "/save": ChatCommand("/save FILE", "write the conversation to a file, as JSON", _save),
        "/load": ChatCommand("/load FILE", "go on with the conversation in a file", _load),
        "/set": ChatCommand("/set [NAME [VALUE]]", "show or change how answers are drawn", _set),
        "/stats": ChatCommand("/stats", "how fast the last answer was, how full it is", _stats),
        "/help": ChatCommand("/help", "this list", _help),
    }
)
