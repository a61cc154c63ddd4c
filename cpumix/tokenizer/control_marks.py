"""Tells the control tokens that a chat template writes from text that only looks like them.

What people write into a message stays text: only the template itself can write control tokens. For
that, control strings in its input are marked before the template runs, and separated afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

# Noncharacters, which Unicode keeps for use inside a program, stand around what is only text.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
_UNMARK = str.maketrans({OPEN: None, CLOSE: None})
_TAME = str.maketrans({OPEN: "\ufffd", CLOSE: "\ufffd"})


class Segment(NamedTuple):
    """A stretch of a rendered conversation: plain text, or one control token."""

    text: str
    control: bool


# Written by programs, compared by templates, and parts of control tokens such as <|user|>.
_ROLES = frozenset("system developer user assistant tool function model ipython".split())


class ControlMarks:
    """Marks for one vocabulary's control strings."""

    def __init__(self, controls: Collection[str]) -> None:
        longest_first = sorted(filter(None, controls), key=len, reverse=True)
        either = any_of(longest_first)
        self._control = re.compile(either)
        self._part = re.compile(
            f"{OPEN}(?P<text>{either}){CLOSE}|[{OPEN}{CLOSE}]|(?P<control>{either})"
        )
        self._beginnings = {text[:n] for text in longest_first for n in range(1, len(text))}
        self._endings = {text[-n:] for text in longest_first for n in range(1, len(text))}
        self._insides = OPEN.join(text[1:-1] for text in longest_first)
        self._longest = max(map(len, self._beginnings), default=0)

    def mark(self, value: Any, key: str = "") -> Any:
        """Mark all control strings in JSON values and keys, and what may become one."""
        if isinstance(value, Mapping):
            return {self.mark(name): self.mark(item, name) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(item, key) for item in value]
        if not isinstance(value, str):
            return value
        value = value.translate(_TAME)
        # An ending such as "</" is broken up, so that what the template writes next cannot turn it
        # into a control token; so are what could end one, and what could stand inside.
        start = max(0, len(value) - self._longest)
        ending = "".join(
            letter + CLOSE * (value[i:] in self._beginnings)
            for i, letter in enumerate(value[start:], start)
        )
        marked = self._control.sub(rf"{OPEN}\g<0>{CLOSE}", value[:start] + ending)
        return CLOSE + marked if self._may_go_on(value, key) else marked

    def _may_go_on(self, value: str, key: str) -> bool:
        """Tell whether a value may make a control token of what the template wrote before it."""
        if any(value[:n] in self._endings for n in range(1, min(len(value), self._longest) + 1)):
            return True
        fixed = key == "type" or (key == "role" and value in _ROLES)
        return bool(value) and not fixed and value in self._insides

    def split(self, rendered: str) -> list[Segment]:
        """Separate the template's control tokens from text, and take the marks away."""
        segments, text, end = [], "", 0
        for part in self._part.finditer(rendered):
            text += rendered[end : part.start()] + (part["text"] or "")
            end = part.end()
            if part["control"]:
                segments += [Segment(text, False), Segment(part["control"], True)]
                text = ""
        segments.append(Segment(text + rendered[end:], False))
        return [segment for segment in segments if segment.text]


def any_of(texts: Iterable[str]) -> str:
    """Return a regular expression for any of some texts, the longest that fits.

    They are grouped by how they begin: Mistral has 750 control tokens, and text has many brackets.
    """
    groups: dict[str, list[str]] = {}
    for text in sorted(filter(None, texts), key=len, reverse=True):
        groups.setdefault(text[:3], []).append(re.escape(text[3:]))
    # A shorter beginning last: what is in its group is shorter than what is in the others.
    ordered = sorted(groups.items(), key=lambda group: -len(group[0]))
    either = [f"{re.escape(start)}(?:{'|'.join(ends)})" for start, ends in ordered]
    return "|".join(either) or "(?!)"


def unmark(text: str) -> str:
    """Return a text without marks."""
    return text.translate(_UNMARK)
