"""What a text goes through: it waits for its turn, its prompt is read, and it is written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple


class Phase(NamedTuple):
    """A part of a text's time, in seconds of `time.perf_counter`."""

    name: str
    """"queue", "prompt" or "decode"."""
    began: float
    ended: float


class Watch:
    """Notes when the phases of a text begin and end; those that have not ended last until now."""

    def __init__(self) -> None:
        self.asked = time.perf_counter()
        self.began: float | None = None
        """When its first tokens went into the model."""
        self.read: float | None = None
        """When its prompt was through."""
        self.last: float | None = None
        """When something came of it last."""

    def begin(self) -> None:
        """Note the first step; later ones change nothing."""
        if self.began is None:
            self.began = time.perf_counter()

    def end_prompt(self) -> None:
        """Note the end of the prompt; later ones change nothing."""
        if self.read is None:
            self.read = time.perf_counter()

    def go_on(self) -> None:
        """Note that something has come of the text."""
        self.last = time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long ago it was asked for."""
        return time.perf_counter() - self.asked

    @property
    def queue_seconds(self) -> float:
        """How long it has waited."""
        return (self.began or time.perf_counter()) - self.asked

    @property
    def prompt_seconds(self) -> float:
        """How long its prompt has taken, 0 before the end of that."""
        return 0.0 if self.read is None else self.read - (self.began or self.asked)

    @property
    def decode_seconds(self) -> float:
        """How long it has been written."""
        return 0.0 if self.read is None or self.last is None else self.last - self.read

    def phases(self) -> Iterator[Phase]:
        """Yield what has been gone through; "decode" only where something came of the text."""
        now = time.perf_counter()
        yield Phase("queue", self.asked, self.began or now)
        if self.began is not None:
            yield Phase("prompt", self.began, self.read or now)
        if self.read is not None and self.last is not None:
            yield Phase("decode", self.read, self.last)
