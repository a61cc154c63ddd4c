"""The texts of one HTTP request, from the compute thread to the event loop."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from cpumix.api.choice import Choice
from cpumix.api.errors import failure
from cpumix.engine.events import Event, Failure, Finish, Token
from cpumix.engine.followers import Followers
from cpumix.engine.mailbox import Mailbox
from cpumix.engine.phase import Phase
from cpumix.engine.sequence import Request, Text
from cpumix.model import Model

from .admission import Admission, Ticket
from .metrics import Metrics

NEWS = 1.0  # seconds between two reports of how far a prompt is


@dataclass(frozen=True)
class PromptProgress:
    """How far the prompt of a text is."""

    done: int
    all: int


class Writing:
    """Begins the texts of some requests and yields their events.

    `close` ends those that have not ended, at the next layer, and gives their places back. The
    compute thread never waits: events cost it at most one `call_soon_threadsafe` each.
    """

    def __init__(
        self,
        model: Model,
        admission: Admission,
        metrics: Metrics,
        requests: Sequence[Request],
    ) -> None:
        """Take places. Raises ApiError (429) when there are none."""
        self._model, self._metrics = model, metrics
        admission.check(len(requests), sum(len(request.ids) for request in requests))
        self.choices = [Choice(request) for request in requests]
        self._tickets: list[Ticket] = [admission.enter(len(request.ids)) for request in requests]
        self._texts: list[Text | None] = [None] * len(requests)
        self._events = Mailbox[tuple[int, Event | PromptProgress]]()
        self._asked = time.monotonic()
        self._last = [self._asked] * len(requests)  # when something came of each text
        self._left = len(requests)

    async def events(self) -> AsyncIterator[tuple[int, Event | PromptProgress]]:
        """Yield (index, event) until all texts have ended. Raises ApiError if one cannot go on."""
        followers = Followers(choice.request.ids for choice in self.choices)
        for index in followers.firsts:
            self._start(index)
        while self._left:
            index, event = await self._events.get()
            if isinstance(event, Failure):
                self.choices[index].finish = "error"
                self._metrics.finished("error")
                raise failure(event.error, self._model.engine.loop.alive) from event.error
            if not isinstance(event, PromptProgress):
                self._note(index, event)
                for other in followers.release(index):
                    self._start(other)
            yield index, event

    async def all(self) -> list[Choice]:
        """Wait for all texts to end."""
        async for _ in self.events():
            pass
        return self.choices

    @property
    def counts(self) -> dict[str, int]:
        """What the log tells of the tokens."""
        stats = [choice.stats for choice in self.choices]
        return {
            "prompt_tokens": stats[0].prompt_tokens,
            "cached_tokens": stats[0].cached_tokens,
            "generated_tokens": sum(each.generated_tokens for each in stats),
        }

    @property
    def phases(self) -> list[tuple[Phase, dict[str, str | int]]]:
        """What each text has gone through, and what came of it."""
        found = []
        for index, (text, choice) in enumerate(zip(self._texts, self.choices, strict=True)):
            stats = choice.stats
            counts: dict[str, dict[str, str | int]] = {
                "queue": {},
                "prompt": {
                    "gen_ai.usage.input_tokens": stats.prompt_tokens,
                    "gen_ai.usage.cache_read.input_tokens": stats.cached_tokens,
                },
                "decode": {
                    "gen_ai.usage.output_tokens": stats.generated_tokens,
                    "cpumix.finish_reason": choice.finish or "cancelled",
                },
            }
            for phase in [] if text is None else text.watch.phases():
                found.append((phase, {"cpumix.choice": index, **counts[phase.name]}))
        return found

    def close(self) -> None:
        """End all texts; a second time does no harm."""
        for text, choice, ticket in zip(self._texts, self.choices, self._tickets, strict=True):
            ticket.leave()
            if not choice.finish:
                choice.finish = "cancelled"
                self._metrics.finished("cancelled")
                if text is not None:
                    self._model.engine.loop.cancel(text)

    def _start(self, index: int) -> None:
        choice = self.choices[index]
        request = replace(choice.request, progress=self._reporter(index))
        self._texts[index] = text = self._model.engine.write(request, self._teller(index))
        choice.stats = text.stats

    def _teller(self, index: int) -> Callable[[Event], None]:
        def tell(event: Event) -> None:  # on the compute thread
            self._events.put((index, event))

        return tell

    def _reporter(self, index: int) -> Callable[[int, int], None]:
        last = time.monotonic()

        def report(done: int, whole: int) -> None:  # on the compute thread
            nonlocal last
            if time.monotonic() - last > NEWS:
                last = time.monotonic()
                self._events.put((index, PromptProgress(done, whole)))

        return report

    def _note(self, index: int, event: Event) -> None:
        choice, now = self.choices[index], time.monotonic()
        if isinstance(event, Token):
            if not choice.tokens:
                stats = choice.stats
                self._tickets[index].begin(stats.prompt_seconds, stats.cached_tokens)
                self._metrics.first_token(now - self._asked, choice.stats)
            else:
                self._metrics.next_token(now - self._last[index])
            self._last[index] = now
        choice.note(event)
        if isinstance(event, Finish):
            self._left -= 1
            self._tickets[index].leave()
            self._metrics.finished(event.reason, now - self._asked)
