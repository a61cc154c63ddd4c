"""The messages of a conversation as a chat template gets them: checked, plain, in several forms."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cpumix.errors import ConfigError, escaped

Message = dict[str, Any]
_DEEPEST = 50  # objects in one another
_REASONING = ("reasoning_content", "thinking", "reasoning")


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return messages as plain JSON values, without the keys whose value is null.

    A message has a role and a content: a text, or a list of {"type": "text", "text": text}; the
    content may be missing beside tool calls. Raises ConfigError for anything else.
    """
    if not messages:
        raise ConfigError("chat: expected at least one message, found none. Give it a prompt.")
    checked = []
    for number, message in enumerate(messages, 1):
        plain = plain_json(message, f"chat message {number}")
        if not _is_message(plain):
            found = escaped(json.dumps(plain, ensure_ascii=False))
            raise ConfigError(
                f"chat message {number}: expected a text as role and as content, found {found}. "
                "Correct the message."
            )
        checked.append(_name_reasoning({k: v for k, v in plain.items() if v is not None}))
    return checked


def check_objects(values: Sequence[Mapping[str, Any]] | None, what: str) -> list[Any] | None:
    """Return tools or documents as plain JSON values. Raises ConfigError for anything else."""
    if values is None:
        return None
    plain = plain_json(values, what)
    if not isinstance(plain, list) or not all(isinstance(value, dict) for value in plain):
        raise ConfigError(
            f"{what}: expected a list of JSON objects, found "
            f"{escaped(json.dumps(plain, ensure_ascii=False))}. Correct the list."
        )
    return plain


def plain_json(value: Any, what: str, depth: int = 0) -> Any:
    """Return a value as the plain types of JSON: a template must not reach into other objects.

    Raises ConfigError for other types, and for what is nested too deep.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, bool, int, float):
        if isinstance(value, kind):
            return kind(value)  # an enumeration, a scalar of NumPy
    if depth > _DEEPEST:
        raise ConfigError(f"{what}: expected at most {_DEEPEST} levels, found more. Flatten it.")
    if isinstance(value, Mapping):
        return {str(k): plain_json(v, what, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item, what, depth + 1) for item in value]
    raise ConfigError(
        f"{what}: expected texts, numbers, lists and objects as in JSON, found a "
        f"{type(value).__name__}. Pass plain values."
    )


def variants(messages: list[Message]) -> Iterator[list[Message]]:
    """Yield messages as they are, and then in the forms that older templates understand."""
    yield messages
    joined = [{**m, "content": _text_of(m)} if _is_parts(m.get("content")) else m for m in messages]
    if joined != messages:
        yield joined
    folded = _fold_system(joined)
    if folded is not None:
        yield folded


def texts_that_count(messages: Sequence[Message]) -> Iterator[int]:
    """Yield the places of the messages that no template may leave out.

    These are what the system says and the last that the user does; templates leave out earlier
    thoughts and results of tools for good reasons.
    """
    roles = [message["role"] for message in messages]
    last_user = max((i for i, role in enumerate(roles) if role == "user"), default=-1)
    for i, message in enumerate(messages):
        if (i == last_user or roles[i] == "system") and _text_of(message).strip():
            yield i


def is_in(message: Message, rendered: str) -> bool:
    """Tell whether a text holds that of a message as it is, but for white space around it."""
    content = message["content"]
    parts = [part["text"] for part in content] if _is_parts(content) else [content]
    return all(part.strip() in rendered for part in parts)


def with_other_text(messages: Sequence[Message], place: int) -> list[Message]:
    """Return messages with another text in one place, to see whether it makes a difference."""
    changed = list(messages)
    content = changed[place]["content"]
    other = f"{_text_of(changed[place])} (another)"
    changed[place] = {
        **changed[place],
        "content": [{"type": "text", "text": other}] if _is_parts(content) else other,
    }
    return changed


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    if content is None:
        return bool(message.get("tool_calls"))
    return isinstance(content, str) or _is_parts(content)


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
        for part in content
    )


def _text_of(message: Message) -> str:
    content = message.get("content", "")
    return "".join(part["text"] for part in content) if _is_parts(content) else content


def _name_reasoning(message: Message) -> Message:
    """Return a message with its thoughts under the names that templates know, as transformers."""
    thoughts = next((message[key] for key in _REASONING if key in message), None)
    if thoughts is None:
        return message
    return {"thinking": thoughts, **message, "reasoning_content": thoughts}


def _fold_system(messages: list[Message]) -> list[Message] | None:
    """Return messages with each system text before the next user's, a blank line between.

    None if there is no system text, or no user message after one.
    """
    folded: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(_text_of(message))
        elif message["role"] == "user" and waiting:
            folded.append({**message, "content": "\n\n".join([*waiting, _text_of(message)])})
            waiting = []
        else:
            folded.append(message)
    return None if waiting or len(folded) == len(messages) else folded
