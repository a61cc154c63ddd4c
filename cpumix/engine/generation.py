"""A text in the making: what `Model.generate` returns."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator

from cpumix.kernels.compile import jit
from cpumix.sampling import LogProbability, Sampler

from .events import Event, Failure, Finish, Token
from .sequence import OnEvent, Text
from .stats import Stats


class Generation:
    """Text as it comes: iterate over it once, with `for` or `async for`.

    The text begins when iteration does, and ends when iteration is broken off. `stop_reason` is set
    at the end: "eos" (the model or a grammar ended it), "stop" (a stop string came), "length"
    (`max_tokens`) or "context" (no room left).
    """

    def __init__(
        self,
        start: Callable[[OnEvent], Text],
        cancel: Callable[[Text], None],
        measure: Callable[[Stats], None],
        sampler: Sampler,
    ) -> None:
        self.stop_reason = ""
        self.token_ids: list[int] = []
        self.log_probabilities: list[LogProbability] = []  # of each token, if asked for
        self._start, self._cancel, self._measure = start, cancel, measure
        self._sampler = sampler
        self._text: Text | None = None
        self._stats = Stats()

    @property
    def seed(self) -> int:
        """What gives the same text again: the seed asked for, or the one drawn."""
        return self._sampler.seed

    @property
    def complete(self) -> bool:
        """Whether the text is all that its grammar asks for; without a grammar it always is."""
        return self._sampler.complete

    @property
    def stats(self) -> Stats:
        """The numbers so far; after the end, or an interruption, those of the whole."""
        stats = self._stats if self._text is None else self._text.stats
        if not self._ended:
            self._measure(stats)
        return stats

    @property
    def _ended(self) -> bool:
        return bool(self.stop_reason)

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of text; each is whole characters."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._text = text = self._start(events.put)
        try:
            while not self._ended:
                if piece := self._take(events.get()):
                    yield piece
        finally:
            self._leave(text)

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield pieces of text; each is whole characters."""
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(event: Event) -> None:  # on the compute thread
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        self._text = text = self._start(put)
        try:
            while not self._ended:
                if piece := self._take(await events.get()):
                    yield piece
        finally:
            self._leave(text)

    def _take(self, event: Event) -> str:
        match event:
            case Failure():
                self.stop_reason = "error"
                raise event.error
            case Finish():
                self._measure(self._text.stats if self._text else self._stats)
                self.stop_reason = event.reason
                jit.mark_warm()
                return event.text
            case Token():
                self.token_ids.append(event.id)
                if event.log_probability is not None:
                    self.log_probabilities.append(event.log_probability)
                return event.text

    def _leave(self, text: Text) -> None:
        if not self._ended:
            self._cancel(text)
            self._measure(text.stats)
            self.stop_reason = "cancelled"
