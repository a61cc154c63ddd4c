"""A conversation that goes on: its system text, its turns, and which of them the model still sees.

Saved as JSON: a list of messages, {"role": ..., "content": ...} each, as every chat API takes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cpumix.errors import ConfigError, quoted
from cpumix.messages import Message, check_messages


class Conversation:
    """A system text, and turns: a question each, with what was said after it."""

    def __init__(self, system: str = "") -> None:
        self.system = system
        self.turns: list[list[Message]] = []
        self.left_out = 0
        """Turns, the oldest, that the model gets to see no longer."""

    @classmethod
    def from_messages(cls, messages: Sequence[Mapping[str, Any]]) -> Conversation:
        """Return the conversation of some messages; a turn begins with each one of the user."""
        checked = check_messages(messages)
        conversation = cls()
        if checked[0]["role"] == "system" and isinstance(checked[0].get("content"), str):
            conversation.system = checked.pop(0)["content"]
        for message in checked:
            if message["role"] == "user" or not conversation.turns:
                conversation.turns.append([])
            conversation.turns[-1].append(message)
        return conversation

    @property
    def messages(self) -> list[Message]:
        """All that was said, the system text first."""
        return self._head + [message for turn in self.turns for message in turn]

    @property
    def visible(self) -> list[Message]:
        """What the model gets to see of it."""
        return self._head + [message for turn in self.turns[self.left_out :] for message in turn]

    @property
    def _head(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []

    @property
    def question(self) -> str | None:
        """What the user said last, None before."""
        content = self.turns[-1][0].get("content") if self.turns else None
        return content if isinstance(content, str) else None

    @property
    def is_answered(self) -> bool:
        """Whether something was said after the last question."""
        return bool(self.turns) and len(self.turns[-1]) > 1

    def copy(self) -> Conversation:
        """Return the same conversation, which can go on in another way."""
        other = Conversation(self.system)
        other.turns, other.left_out = [list(turn) for turn in self.turns], self.left_out
        return other

    def ask(self, text: str) -> None:
        """Begin a turn."""
        self.turns.append([{"role": "user", "content": text}])

    def answer(self, text: str) -> None:
        """End a turn."""
        self.turns[-1].append({"role": "assistant", "content": text})

    def take_back_answer(self) -> None:
        """Forget what came after the last question."""
        del self.turns[-1][1:]

    def undo(self) -> None:
        """Forget the last turn."""
        self.turns.pop()
        self.left_out = min(self.left_out, max(len(self.turns) - 1, 0))

    def reset(self) -> None:
        """Forget all turns; the system text stays."""
        self.turns, self.left_out = [], 0

    def leave_out(self, fits: Callable[[], bool]) -> int:
        """Leave out the oldest turns until the rest fits; the last turn and the system text stay.

        Returns how many turns it left out now.
        """
        before = self.left_out
        while self.left_out < len(self.turns) - 1 and not fits():
            self.left_out += 1
        return self.left_out - before


def messages_from_json(text: str, where: str) -> list[Message]:
    """Return the messages in a JSON text: a list, or an object that has one as "messages".

    `where` begins the sentence of a ConfigError.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{where}: expected messages as JSON, found text that is none: {error}."
        ) from error
    if isinstance(found, dict):
        found = found.get("messages")
    if not isinstance(found, list) or not all(isinstance(message, dict) for message in found):
        raise ConfigError(
            f"{where}: expected a JSON list of messages, found {quoted(text.strip())}. "
            'Write [{"role": "user", "content": "Hello"}].'
        )
    return check_messages(found)


def messages_to_json(messages: Sequence[Message]) -> str:
    """Return messages as JSON for people, a line for each field."""
    return json.dumps(messages, ensure_ascii=False, indent=1) + "\n"
