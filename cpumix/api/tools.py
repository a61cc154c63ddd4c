"""Calls of functions: as a schema that an answer has to follow, and found in answers."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from cpumix.sampling.tools import ToolChoice
from cpumix.tokenizer.tool_calls import read_call

from .stamp import Stamp

Delta = dict[str, Any]
OPENERS = ("<tool_call>", "[TOOL_CALLS]", "{", "[")  # how models begin calls, or just JSON
MARKERS = OPENERS[:2]  # which may also come after some words
_TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)


def explanation(choice: ToolChoice) -> str:
    """Return a system text for models whose template does not write tools."""
    functions = [choice.functions[name] for name in choice.forced]
    if choice.named:
        return f"Answer with the arguments of this function, as JSON: {json.dumps(functions[0])}"
    return (
        'Answer with a call of one of these functions, as JSON: {"name": NAME, "arguments": '
        f"ARGUMENTS}}. The functions: {json.dumps(functions)}"
    )


class PlainAnswer:
    """An answer that is text."""

    def __init__(self) -> None:
        self.content = ""
        self.calls: list[Delta] = []

    def put(self, text: str) -> list[Delta]:
        """Take a piece of text; return what a stream tells of it."""
        self.content += text
        return [{"content": text}] if text else []

    def finish(self) -> list[Delta]:
        """Return what is left to tell at the end."""
        return []

    @property
    def message(self) -> dict[str, Any]:
        """The whole answer."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content, "refusal": None}
        if self.calls:
            calls = [{k: v for k, v in call.items() if k != "index"} for call in self.calls]
            message |= {"content": self.content or None, "tool_calls": calls}
        return message


class ForcedCall(PlainAnswer):
    """An answer that is the arguments of one function."""

    def __init__(self, name: str, stamp: Stamp) -> None:
        super().__init__()
        self.calls = [_call(0, name, "", stamp)]
        self._told = False

    def put(self, text: str) -> list[Delta]:
        """Take a piece of the arguments."""
        self.calls[0]["function"]["arguments"] += text
        if not self._told:
            self._told = True
            return [{"tool_calls": [_copy(self.calls[0])]}]
        return [{"tool_calls": [{"index": 0, "function": {"arguments": text}}]}] if text else []


class FoundCalls(PlainAnswer):
    """An answer that may be calls: what could be one is held back until it is certain."""

    def __init__(self, names: Collection[str], stamp: Stamp, most: int | None = None) -> None:
        """Find calls of `names`, and keep the first `most` of them."""
        super().__init__()
        self._names, self._stamp, self._held, self._most = names, stamp, "", most

    def put(self, text: str) -> list[Delta]:
        """Take a piece of text; tell of it if it cannot belong to a call."""
        self._held += text
        start = self._held.lstrip()
        begins = not self.content and (
            start.startswith(OPENERS) or any(opener.startswith(start) for opener in OPENERS)
        )
        if begins:
            return []
        end = self._safe()
        text, self._held = self._held[:end], self._held[end:]
        return super().put(text)

    def finish(self) -> list[Delta]:
        """Tell of the calls, or of the text that was none."""
        held, self._held = self._held, ""
        found = parse_calls(held, self._names)
        if found is None:
            return super().put(held)
        self.calls = [
            _call(i, name, arguments, self._stamp)
            for i, (name, arguments) in enumerate(found[: self._most])
        ]
        return [{"tool_calls": [_copy(call)]} for call in self.calls]

    def _safe(self) -> int:
        """Return up to where the held text is certain to be no call."""
        places = [at for marker in MARKERS if (at := self._held.find(marker)) >= 0]
        for marker in MARKERS:
            for n in range(min(len(marker) - 1, len(self._held)), 0, -1):
                if self._held.endswith(marker[:n]):
                    places.append(len(self._held) - n)
        return min(places, default=len(self._held))


def parse_calls(text: str, names: Collection[str]) -> list[tuple[str, str]] | None:
    """Return (name, arguments as JSON) of the calls that a text is, None if it is something else.

    Knows the ways of Hermes and Qwen (<tool_call>), Mistral ([TOOL_CALLS]) and Llama (plain JSON).
    """
    tagged = _TAGGED.findall(text)
    parts = tagged or [text.strip().removeprefix("[TOOL_CALLS]")]
    calls = []
    for part in parts:
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            return None
        for call in value if isinstance(value, list) else [value]:
            read = read_call(call, names, without={})
            if read is None:
                return None
            name, arguments = read
            told = arguments if isinstance(arguments, str) else json.dumps(arguments)
            calls.append((name, told))
    return calls or None


def _call(index: int, name: str, arguments: str, stamp: Stamp) -> Delta:
    function = {"name": name, "arguments": arguments}
    identity = stamp.identity("call_")
    return {"index": index, "id": identity, "type": "function", "function": function}


def _copy(call: Delta) -> Delta:
    return {**call, "function": dict(call["function"])}
