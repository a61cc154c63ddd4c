"""The small JSON files beside a tokenizer: what can be read of them, and notes on the rest.

All of them are optional, so a damaged one is no reason to stop: it is named and left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cpumix.errors import escaped

LARGEST_ID = (1 << 22) - 1  # the largest vocabulary known has a sixteenth of that
_T = TypeVar("_T")


class Unreadable(ValueError):
    """What a side file holds instead of what was expected, in words."""


class SideFiles:
    """Files by name, and `notes`: one sentence for each that was left out, or a part of it."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self.notes: list[str] = []

    def __contains__(self, name: str) -> bool:
        """Tell whether there is such a file."""
        return name in self._files

    def names(self) -> list[str]:
        """Return all names, sorted."""
        return sorted(self._files)

    def text(self, name: str) -> str:
        """Return a text file; what is not UTF-8 in it becomes U+FFFD."""
        return self._files.get(name, b"").decode("utf-8", "replace")

    def object(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file, an empty one if there is none to read."""
        return self.attempt(name, lambda: self._object(name), {})

    def is_object(self, name: str) -> bool:
        """Tell whether a file holds a JSON object."""
        try:
            self._object(name)
        except Unreadable:
            return False
        return True

    def attempt(self, name: str, read: Callable[[], _T], otherwise: _T) -> _T:
        """Return what `read` returns; if that is Unreadable, note it and return `otherwise`."""
        try:
            return read()
        except Unreadable as e:
            self.notes.append(f"{name}: {e}. Went on without it.")
            return otherwise

    def _object(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self._files.get(name, b"{}"))
        except (ValueError, RecursionError) as e:  # ValueError: also a number of 5000 digits
            raise Unreadable(f"expected valid JSON, found {escaped(e)}") from None
        if not isinstance(found, dict):
            raise Unreadable(f"expected a JSON object at the top, found {type(found).__name__}")
        if _drop_halves(found):
            self.notes.append(
                f"{name}: it has half characters (U+D800 to U+DFFF). Went on without."
            )
        return found


def token_id(value: object) -> int:
    """Return a token id, written as a number or as text. Raises Unreadable for anything else."""
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal()) or len(text) > 10:
        raise Unreadable(f"expected a token id from 0 on, found {escaped(repr(value))}")
    if int(text) > LARGEST_ID:
        raise Unreadable(f"expected a token id up to {LARGEST_ID}, found {text}")
    return int(text)


def _drop_halves(value: dict[Any, Any] | list[Any]) -> bool:
    """Take the texts that are not Unicode out of a JSON value; return whether there were some.

    In place: a copy would take as much memory again.
    """
    dropped = False
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        item = value[key]
        if isinstance(value, dict) and _has_half(key):
            del value[key]
            dropped = True
        elif _has_half(item):
            value[key] = None
            dropped = True
        elif isinstance(item, (dict, list)) and item:
            dropped = _drop_halves(item) or dropped
    return dropped


def _has_half(value: object) -> bool:
    return (
        isinstance(value, str)
        and not value.isascii()
        and any("\ud800" <= letter <= "\udfff" for letter in value)
    )
