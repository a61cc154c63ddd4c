"""A text in the making: what `Model.generate` returns."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Iterator

from cpumix.kernels.compile import jit
from cpumix.sampling import LogProbability
from cpumix.tokenizer.tool_calls import ToolCall, parse_tool_calls

from .engine import Engine
from .events import Event, Failure, Finish, Token
from .mailbox import Mailbox
from .sequence import OnEvent, Request, Text
from .stats import Stats


class Generation:
    """Text as it comes: iterate over it once, with `for` or `async for`.

    The text begins when iteration does, and ends when iteration is broken off. `stop_reason` is set
    at the end: "eos" (the model or a grammar ended it), "stop" (a stop string came), "length"
    (`max_tokens`), "context" (no room left) or "cancelled" (iteration was broken off).
    """

    def __init__(self, engine: Engine, request: Request, *, measured: bool = True) -> None:
        """Prepare a text; `measured` ones have all numbers of `stats`, others the tokens only."""
        self.stop_reason = ""
        self.text = ""
        """What has come so far."""
        self.token_ids: list[int] = []
        self.log_probabilities: list[LogProbability] = []  # of each token, if asked for
        self.request = request
        self._engine, self._measured = engine, measured
        self._before = engine.pager.counters
        self._sampler = request.sampler
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
    def tool_calls(self) -> list[ToolCall]:
        """The tools that the text so far calls, with their arguments."""
        return parse_tool_calls(self.text, self.request.tools)

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
        self.begin(events.put)
        try:
            while not self._ended:
                if piece := self.take(events.get()):
                    yield piece
        finally:
            self.leave()

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield pieces of text; each is whole characters."""
        events = Mailbox[Event]()
        self.begin(events.put)
        try:
            while not self._ended:
                if piece := self.take(await events.get()):
                    yield piece
        finally:
            self.leave()

    def begin(self, put: OnEvent) -> None:
        """Let the text be written; `put` gets its events on the compute thread."""
        self._text = self._engine.write(self.request, put)

    def take(self, event: Event) -> str:
        """Note an event; return the text that came with it, often none."""
        match event:
            case Failure():
                self.stop_reason = "error"
                raise event.error
            case Finish():
                stats = self._text.stats if self._text else self._stats
                self._measure(stats)
                self.stop_reason = stats.stop_reason = event.reason
                jit.mark_warm()
            case Token():
                self.token_ids.append(event.id)
                if event.log_probability is not None:
                    self.log_probabilities.append(event.log_probability)
        self.text += event.text
        return event.text

    def leave(self) -> None:
        """Cancel the text if it has begun and not ended."""
        if self._text is not None and not self._ended:
            self._engine.loop.cancel(self._text)
            self._measure(self._text.stats)
            self.stop_reason = self._text.stats.stop_reason = "cancelled"

    def _measure(self, stats: Stats) -> None:
        if self._measured:
            self._engine.measure(stats, self._before)
