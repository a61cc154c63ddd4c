"""Finds a short way to end a text that a grammar allows, so that it is whole at `max_tokens`.

The shortest way of all cannot be known without trying every text. This tries, from where the text
stands, the few tokens that tend to end things, and follows the most promising states side by side.
What it returns does end the text; there may be a shorter way, or one where it finds none.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .grammar import Matcher

WIDTH = 6  # states that are followed side by side
MOST_STEPS = 1000  # for so long: of a grammar without an end there is none


class Kind(NamedTuple):
    """Tokens that are tried, by the text that they print."""

    pattern: bytes
    most: int  # so many of the kind, longest first
    cost: int  # beside the token itself, so that texts end rather than grow
    around: bool = False  # stands around texts, and is a letter like others within one
    ends: bool = False  # where one is allowed in JSON, no other is better


KINDS = (
    Kind(rb"[}\]]+", 1, 0, around=True, ends=True),  # ends objects and arrays
    Kind(rb",", 1, 1, around=True, ends=True),  # where they must not end yet
    Kind(rb'"[}\]]+', 1, 1, ends=True),  # ends a text, and what it is in
    Kind(rb'"', 1, 0, ends=True),  # ends a text, or begins one where it is not free
    Kind(rb'""|\[\]|\{\}', 2, 0, around=True),
    Kind(rb":", 1, 1, around=True),
    Kind(rb"[a-zA-Z]{2,}", 4, 2),
    Kind(rb"[0-9]", 2, 2),
    Kind(rb"[@./_-]", 5, 2),  # joins words in addresses, dates and names
    Kind(rb"[\[{(<]", 2, 3, around=True),
    Kind(rb"[)>]", 1, 0, around=True),
    Kind(rb"[a-zA-Z]", 3, 3),
    Kind(rb"[!-+;=?\\^`|~]", 4, 3),
)
OTHERS = 4
ENOUGH = 400  # tokens of a kind and a length
LONG = 8  # bytes of the longest token tried
FREE = 1 / 8  # of all tokens: where more are allowed, the text is free


class _Trials:
    """The tokens that are tried, kind by kind, ready to be looked up in a mask."""

    def __init__(self, printed: tuple[bytes, ...]) -> None:
        self._count = len(printed)
        patterns = [re.compile(kind.pattern) for kind in KINDS]
        found: list[list[int]] = [[] for _ in KINDS]
        counts: Counter[tuple[int, int]] = Counter()
        for token in sorted(range(len(printed)), key=lambda t: -len(printed[t])):
            length = len(printed[token])
            if 0 < length <= LONG:
                for place, pattern in enumerate(patterns):
                    if pattern.fullmatch(printed[token]) and counts[place, length] < ENOUGH:
                        counts[place, length] += 1
                        found[place].append(token)
        self._kinds = [
            (kind, np.array(tokens), np.array(tokens) >> 5, np.array(tokens, np.uint32) & 31)
            for tokens, kind in zip(found, KINDS, strict=True)
            if tokens
        ]

    def free(self, bits: NDArray[np.uint32]) -> bool:
        """Tell whether nearly any text is allowed, as it is between quotation marks."""
        return int.from_bytes(bits.tobytes(), "little").bit_count() > FREE * self._count

    def pick(self, bits: NDArray[np.uint32], json: bool) -> list[tuple[list[int], int]]:
        """Return the tokens to try where `bits` are allowed, and their costs.

        If it is none of those, any others are tried. `json` says that the text is JSON.
        """
        picked: list[tuple[list[int], int]] = []
        free = self.free(bits)
        for kind, tokens, words, shifts in self._kinds:
            if kind.around and free:
                continue
            allowed = tokens[np.flatnonzero(bits[words] >> shifts & 1)[: kind.most]]
            picked += [([token], kind.cost) for token in allowed.tolist()]
            if picked and json and kind.ends and (free or kind.around):
                return picked
        if not picked and bits.any():
            others = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
            picked = [([token], OTHERS) for token in others[:4].tolist()]
        return picked


_trials = lru_cache(maxsize=2)(_Trials)


class _State(NamedTuple):
    """A place that the text may come to, and the tokens that lead there."""

    matcher: Matcher
    tokens: list[int]
    length: int  # bytes of these tokens
    free: bool
    cost: int

    def rank(self) -> tuple[bool, int, int, int]:
        """Return what is lower for more promising states, among those of as many steps."""
        return self.free, self.cost, len(self.tokens), -self.length


def find_closing(matcher: Matcher, most: int) -> list[int] | None:
    """Return up to `most` tokens that complete the text, or None if none are found.

    `matcher` is left where it is.
    """
    best: list[int] | None = None
    # Where forced tokens cost nothing a text may go on to what has many of them; where they cost
    # as much as others it may rather grow where it is. The shorter way of the two is taken.
    for json in (True, False) if matcher.json else (False,):
        for forced_cost in (0, 1):
            shorter = _search(matcher, most, json=json, forced_cost=forced_cost)
            if shorter is not None:
                best, most = shorter, len(shorter) - 1
        if best is not None:
            break
    return best


def _search(matcher: Matcher, most: int, *, json: bool, forced_cost: int) -> list[int] | None:
    printed = matcher.vocabulary.printed
    trials = _trials(printed)
    states = [_State(matcher.copy(), [], 0, False, 0)]
    best: list[int] | None = None
    for _ in range(MOST_STEPS):
        following: dict[bytes, _State] = {}
        for state in states:
            if len(state.tokens) > most:
                continue
            if state.matcher.complete:
                best, most = state.tokens, len(state.tokens) - 1  # only shorter ones from here
                continue
            forced = state.matcher.forced()
            tries = [(forced, forced_cost * len(forced))]
            if not forced:
                tries = trials.pick(state.matcher.allowed(), json)
            for step, cost in tries:
                tokens = [*state.tokens, *step]
                other = state.matcher.copy()
                if len(tokens) > most or not all(map(other.accept, step)):
                    continue
                bits = other.allowed()
                if other.failed:
                    continue
                length = state.length + sum(len(printed[token]) for token in step)
                found = _State(other, tokens, length, trials.free(bits), state.cost + cost)
                # Of those that may go on in the same ways, the most promising one is followed.
                known = following.get(bits.tobytes())
                if known is None or found.rank() < known.rank():
                    following[bits.tobytes()] = found
        states = sorted(following.values(), key=_State.rank)[:WIDTH]
        if not states:
            break
    return best


def closes(matcher: Matcher, tokens: list[int]) -> bool:
    """Tell whether `tokens` complete the text; `matcher` is left where it is."""
    if not tokens:
        return matcher.complete
    if not matcher.takes(tokens):
        return False
    after = matcher.copy()
    return all(map(after.accept, tokens)) and after.complete
