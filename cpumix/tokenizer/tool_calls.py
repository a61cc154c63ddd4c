"""How a model writes the call of a tool: read off its own chat template, and read back.

A template writes an earlier call in the form that the model was trained on. Rendering one with a
name that nobody uses shows what stands before its JSON object, and how that names its parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .control_marks import Segment

PROBE = "cpumix_probe"
PROBE_MESSAGE: Mapping[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "cpumix123",  # nine letters and digits, as templates of Mistral want
            "type": "function",
            "function": {"name": PROBE, "arguments": {PROBE: 1}},
        }
    ],
}
_OBJECT = re.compile(rf'\{{\s*"name":\s*"{PROBE}",\s*"(?P<arguments>arguments|parameters)":\s*\{{')
_ARGUMENTS = ("arguments", "parameters")
_MOST_TRIES = 100  # objects that are no calls, in a text


class ToolCall(NamedTuple):
    """A tool that a model wants to be run."""

    name: str
    arguments: dict[str, Any]


class CallStart(NamedTuple):
    """Where a call begins: what the template writes before its object, and a name in that."""

    segments: list[Segment]
    arguments: str = "arguments"


def find_start(
    opened: Sequence[Segment], called: Sequence[Segment], name: str | None = None
) -> CallStart:
    """Return where a call begins, given a conversation that is open, and one that ends with PROBE.

    With the `name` of a tool, the object's own beginning belongs to it, up to the arguments. A
    template that writes calls in some other way than as an object begins one at once.
    """
    before, after = _text(opened), _text(called)
    found = _OBJECT.search(after, len(before)) if after.startswith(before) else None
    if found is None:
        return CallStart(list(opened))
    segments, left = list[Segment](), found.start()
    for segment in called:
        if left <= 0:
            break
        segments.append(segment._replace(text=segment.text[:left]))
        left -= len(segment.text)
    if name is not None:
        head = found[0].removesuffix("{").replace(f'"{PROBE}"', json.dumps(name))
        if segments and not segments[-1].control:  # encoded together, as the template has it
            head = segments.pop().text + head
        segments.append(Segment(head, False))
    return CallStart(segments, found["arguments"])


def _text(segments: Sequence[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def parse_tool_calls(text: str, names: Collection[str]) -> list[ToolCall]:
    """Return the calls in an answer: JSON objects with one of `names` and its arguments."""
    return list(_calls(text, frozenset(names))) if names else []


def _calls(text: str, names: frozenset[str]) -> Iterator[ToolCall]:
    decoder, place, tries = json.JSONDecoder(), text.find("{"), 0
    while place >= 0 and tries < _MOST_TRIES:
        try:
            found, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            found, end = None, place + 1
        call = read_call(found, names)
        if call is None or not isinstance(call[1], dict):
            end, tries = place + 1, tries + 1
        else:
            yield ToolCall(*call)
        place = text.find("{", end)


def read_call(value: object, names: Collection[str], without: Any = None) -> tuple[str, Any] | None:
    """Return the name and the arguments of a call of one of `names`, None for what is none.

    `without` stands for arguments that are left out.
    """
    if not isinstance(value, dict) or value.get("name") not in tuple(names):
        return None
    return value["name"], next((value[key] for key in _ARGUMENTS if key in value), without)
