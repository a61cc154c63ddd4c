"""Hands the texts of a batch to the engine: always as many as it writes at once, none too early.

Texts that begin alike come one after the other, and one that shares a long beginning with a prompt
that is still being read waits for it: then its beginning is in the KV cache, and is computed once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cpumix.engine.engine import Engine
from cpumix.errors import ConfigError, CpumixError
from cpumix.quant.kv import KV_BLOCK

from .pieces import OnEnd, OnToken, Piece


@dataclass
class Counts:
    """What has been done so far."""

    lines: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts: other texts had computed them."""
    written_tokens: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sums of both."""
        return Counts(
            self.lines + other.lines,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.written_tokens + other.written_tokens,
        )


class Group:
    """Texts whose ends are waited for together: those of some lines."""

    def __init__(self, lines: Sequence[Sequence[Piece]]) -> None:
        pieces = [piece for line in lines for piece in line]
        self.pieces = sorted(pieces, key=lambda piece: list(piece.ids))  # by common beginnings
        self.errors: dict[int, BaseException] = {}  # by id() of the piece
        self.empty_lines = sum(1 for line in lines if not line)
        self._left = [len(line) for line in lines]
        self._lines = {id(piece): i for i, line in enumerate(lines) for piece in line}
        self._ended = threading.Event()
        if not pieces:
            self._ended.set()

    def wait(self) -> None:
        """Return when all texts have ended."""
        self._ended.wait()

    def end(self, piece: Piece, error: BaseException | None) -> bool:
        """Note that a text has ended, and how; return whether all of its line have."""
        if error is not None:
            self.errors[id(piece)] = error
        line = self._lines[id(piece)]
        self._left[line] -= 1
        if not any(self._left):
            self._ended.set()
        return not self._left[line]


@dataclass
class Relay:
    """Begins texts in order, `width` of them at once; lives on the engine's compute thread."""

    engine: Engine
    width: int
    counts: Counts = field(default_factory=Counts)
    _waiting: deque[tuple[Group, Piece]] = field(default_factory=deque)
    _reading: list[Piece] = field(default_factory=list)
    """Those that have not written anything yet."""
    _active: int = 0
    _closed: bool = False

    def add(self, group: Group) -> None:
        """Let texts follow those that were added before; from any thread."""
        self.engine.loop.call_soon(lambda: self._add(group))

    def close(self) -> None:
        """Begin nothing more, and end what waits; from any thread, before the engine is closed."""
        with suppress(ConfigError):  # it has ended by itself
            self.engine.loop.call(self._drop)

    def _drop(self) -> None:
        self._closed = True
        for group, piece in self._waiting:
            group.end(piece, ConfigError("batch: closed before its end. Start it again."))
        self._waiting.clear()

    def _add(self, group: Group) -> None:
        self.counts.lines += group.empty_lines
        self._waiting.extend((group, piece) for piece in group.pieces)
        self._begin()

    def _begin(self) -> None:
        """Begin what has room and need not wait for another's prompt."""
        while self._waiting and self._active < self.width and not self._closed:
            group, piece = self._waiting[0]
            if self._is_early(piece):
                return
            self._waiting.popleft()
            self._active += 1
            self._reading.append(piece)
            try:
                piece.begin(self.engine, *self._ears(group, piece))
            except CpumixError as error:  # the engine has ended
                self._active -= 1
                self._reading.remove(piece)
                group.end(piece, error)

    def _ears(self, group: Group, piece: Piece) -> tuple[OnToken, OnEnd]:
        return lambda: self._heard(piece), lambda error: self._ended(group, piece, error)

    def _is_early(self, piece: Piece) -> bool:
        """Whether a prompt that is being read will soon leave more of this one in the cache."""
        if not piece.reuses:
            return False
        others = (other.ids for other in self._reading if other.reuses)
        shared = max((common(ids, piece.ids) for ids in others), default=0)
        if shared < KV_BLOCK:
            return False
        return shared - self.engine.scheduler.prefix.match(piece.ids).tokens >= KV_BLOCK

    def _heard(self, piece: Piece) -> None:
        self.counts.written_tokens += 1
        self._has_read(piece)

    def _has_read(self, piece: Piece) -> None:
        if piece in self._reading:
            self._reading.remove(piece)
            self.counts.prompt_tokens += len(piece.ids)
            self.counts.cached_tokens += piece.cached_tokens
            self._begin()

    def _ended(self, group: Group, piece: Piece, error: BaseException | None) -> None:
        self._active -= 1
        self._has_read(piece)
        self.counts.lines += group.end(piece, error)
        self._begin()


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many of the first tokens are the same."""
    most = min(len(a), len(b))
    starts = range(0, most, KV_BLOCK)  # lists are compared faster than their members
    start = next((i for i in starts if a[i : i + KV_BLOCK] != b[i : i + KV_BLOCK]), most)
    return next((i for i in range(start, most) if a[i] != b[i]), most)
