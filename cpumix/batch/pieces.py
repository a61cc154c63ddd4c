"""The work of the engine that a line of a batch asks for: one piece for each text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cpumix.api.choice import Choice
from cpumix.engine.engine import Engine
from cpumix.engine.events import Event, Failure, Finish, Token
from cpumix.engine.sequence import Request

OnToken = Callable[[], None]
OnEnd = Callable[[BaseException | None], None]


class Piece(Protocol):
    """Something that the engine does for a text, and that begins with tokens."""

    reuses: bool
    """Whether it takes the beginning of its text from the KV cache, and leaves its own there."""

    @property
    def ids(self) -> Sequence[int]:
        """The tokens of the prompt."""

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt were there already, once it has begun."""

    def begin(self, engine: Engine, on_token: OnToken, on_end: OnEnd) -> None:
        """Let it be done. The functions are called on the compute thread.

        `on_token` hears of each token that was written; the first means that the whole prompt is in
        the KV cache. `on_end` comes once, with what went wrong or None.
        """


class WrittenText:
    """A text that is written after its prompt."""

    reuses = True

    def __init__(self, request: Request) -> None:
        self.choice = Choice(request)

    @property
    def ids(self) -> Sequence[int]:  # noqa: D102
        return self.choice.request.ids

    @property
    def cached_tokens(self) -> int:  # noqa: D102
        return self.choice.stats.cached_tokens

    def begin(self, engine: Engine, on_token: OnToken, on_end: OnEnd) -> None:  # noqa: D102
        def hear(event: Event) -> None:
            self.choice.note(event)
            if isinstance(event, Token):
                on_token()
            elif isinstance(event, Finish):
                on_end(None)
            elif isinstance(event, Failure):
                on_end(event.error)

        self.choice.stats = engine.write(self.choice.request, hear).stats
