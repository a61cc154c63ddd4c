"""Counts the work of one run of a template, and stops it when it is too much.

Work is counted in steps: about 50 ns of time, four characters or a few bytes of new memory. Every
operation says what it will cost before it runs, so no single one can be too long or too large.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from jinja2 import Undefined
from jinja2.utils import Namespace

STEP = 32  # steps of any call, filter, test or operator
ITEM = 16  # steps for each item of a container: a visit, and the memory of a small object
LETTERS = 4  # characters for a step
DEEPEST = 100  # containers in one another; Python's own hash of tuples has no limit and crashes
LARGEST_INT = 4096  # bits
TOO_MUCH = "it asks for more time or memory than a chat template needs"
NEVER = 1 << 62  # more steps than any run may take


class LimitError(Exception):
    """A template asked for more than it may have; the text says what it does."""


class Meter:
    """The steps that are left to a run."""

    def __init__(self) -> None:
        self.left = 0

    def charge(self, steps: int) -> None:
        """Count `steps` before they are taken. Raises LimitError if there are not as many left."""
        if not 0 <= steps <= self.left:  # below 0: who passes a counting filter to `map`
            raise LimitError(TOO_MUCH)
        self.left -= steps

    def weigh(self, value: Any) -> int:
        """Return the steps to visit a value with all that is in it, each time that it occurs.

        Raises LimitError for what is too deep, or larger than the steps that are left.
        """
        if (steps := _simple(value)) is not None:
            return steps
        total, stack = 0, [(value, 0)]
        while stack:
            container, depth = stack.pop()
            if depth == DEEPEST:
                raise LimitError(f"its values are more than {DEEPEST} levels deep")
            for item in _contents(container):
                steps = _simple(item)
                total += ITEM + (steps or 0)
                if total > self.left:
                    raise LimitError(TOO_MUCH)
                if steps is None:
                    stack.append((item, depth + 1))
        return total

    def collect(self, items: Iterable[Any]) -> list[Any]:
        """Return what a generator yields, counting as it goes."""
        collected = []
        for item in items:
            self.charge(ITEM)
            collected.append(item)
        return collected


def _simple(value: Any) -> int | None:
    """Return the steps to visit a value that is no container, and None for one that is."""
    if isinstance(value, str):
        return 1 + len(value) // LETTERS
    if value is None or isinstance(value, (bool, float)):
        return 1
    if isinstance(value, int):
        if value.bit_length() > LARGEST_INT:
            raise LimitError(f"it computes with numbers of more than {LARGEST_INT} bits")
        return 1 + value.bit_length() // 8
    if isinstance(value, range):
        return ITEM * len(value)
    if isinstance(value, _CONTAINERS):
        return None
    if isinstance(value, Iterable) and not isinstance(value, Undefined):
        raise LimitError(f"it uses a {type(value).__name__} as a value")  # `loop` itself
    return ITEM


def _contents(container: Any) -> Iterable[Any]:
    if isinstance(container, Namespace):
        container = object.__getattribute__(container, "_Namespace__attrs")
    if isinstance(container, dict):
        return [*container, *container.values()]
    if isinstance(container, _ITERATOR):
        return copy.copy(container)  # which goes on from where it stands
    items: Iterable[Any] = container
    return items


_ITERATOR: Any = type(iter([]))  # what filters that yield give here
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS = (list, tuple, dict, set, frozenset, Namespace, _ITERATOR, *_VIEWS)
