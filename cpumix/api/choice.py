"""What has come of one text that was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from cpumix.engine.events import Event, Finish, Token
from cpumix.engine.sequence import Request
from cpumix.engine.stats import Stats


@dataclass
class Choice:
    """A text in the making, and why it ended."""

    request: Request
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str = ""
    stats: Stats = field(default_factory=Stats)

    @property
    def seed(self) -> int:
        """What gives the same text again."""
        return self.request.sampler.seed

    def note(self, event: Event) -> None:
        """Take in an event of the text; a failure is not one's own affair."""
        if isinstance(event, Token):
            self.tokens.append(event)
            self.text += event.text
        elif isinstance(event, Finish):
            self.text += event.text
            sampler = self.request.sampler
            # A text that its grammar was led to the end of is whole, however long it may be.
            led = sampler.params.constraint is not None and sampler.complete
            self.finish = "eos" if led else event.reason
