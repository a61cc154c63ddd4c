"""One text in the making: its tokens, its sampler, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from cpumix.sampling import Sampler, StopMatcher
from cpumix.tokenizer import TextStream
from cpumix.transformer.batch import Step

from .draft import LookupDraft
from .events import Event, Failure, Finish, Token
from .job import Floats, Job
from .phase import Watch
from .stats import Stats

OnEvent = Callable[[Event], None]


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    ids: Sequence[int]
    """The prompt."""
    max_tokens: int
    sampler: Sampler
    stop: Collection[int]
    """Tokens that end the text and are not part of it."""
    stream: TextStream | None = None
    """Turns tokens into text; without it pieces are empty."""
    draft: bool = False
    salt: bytes = b""
    keep_stop: bool = False
    """Whether a stop string that ends the text is part of it."""
    tools: Collection[str] = ()
    """Names of those that the text may call."""
    progress: Callable[[int, int], None] | None = None
    """Gets the tokens of the prompt that are done, by their layers, and all there are."""


class Text(Job):
    """Draws tokens until one ends the text. Lives on the compute thread; knows no network."""

    def __init__(self, request: Request, context: int, layers: int, on_event: OnEvent) -> None:
        self.request, self.tokens = request, list(request.ids)
        self.stats = Stats(prompt_tokens=len(request.ids))
        self.salt = request.salt
        self._context, self._layers, self._tell = context, layers, on_event
        self._stop = StopMatcher(request.sampler.params.stop, include=request.keep_stop)
        self._draft = LookupDraft() if request.draft else None
        self._proposed: list[int] = []
        self.watch = Watch()
        self._reason = "" if request.max_tokens else "length"

    @property
    def most_tokens(self) -> int:  # noqa: D102
        return min(len(self.request.ids) + max(self.request.max_tokens - 1, 0), self._context)

    @property
    def writing(self) -> bool:  # noqa: D102
        return self.stats.generated_tokens > 0

    @property
    def ended(self) -> bool:  # noqa: D102
        return bool(self._reason)

    def pending(self) -> int:  # noqa: D102
        self._proposed = []
        left = len(self.tokens) - self.computed
        if self._draft and self.writing and left == 1:
            room = self.most_tokens - len(self.tokens)
            self._proposed = self._draft.propose(self.tokens, room)
        return left + len(self._proposed)

    def step(self, count: int) -> Step:  # noqa: D102
        self.watch.begin()
        self.stats.queue_seconds = self.watch.queue_seconds
        left = len(self.tokens) - self.computed
        del self._proposed[max(count - left, 0) :]
        ids = self.tokens[self.computed : self.computed + count] + self._proposed
        logits = 1 + len(self._proposed) if count >= left else 0
        return Step(ids, self.computed, self.table, logits)

    def on_layer(self, rows: int, done: int) -> None:  # noqa: D102
        if self.request.progress is not None and not self.writing:
            tokens = self.computed + done * rows // self._layers
            self.request.progress(tokens, len(self.request.ids))

    def take(self, rows: Floats) -> None:
        """Draw a token from each row, as long as the draft was right about those before it."""
        if not len(rows):
            return
        self.watch.end_prompt()
        if not self.writing:
            self.stats.prompt_seconds = self.watch.prompt_seconds
            self.stats.cached_tokens = self.cached
        accepted = 0
        for i, row in enumerate(rows):
            token = self.request.sampler(row)
            self._put(token)
            if self.ended or i == len(self._proposed) or token != self._proposed[i]:
                break
            accepted += 1
        self.computed += accepted  # the draft's keys and values are those of the tokens drawn
        if self._draft:
            self._draft.settle(len(self._proposed), accepted)
            self.stats.drafted_tokens += len(self._proposed)
            self.stats.accepted_tokens += accepted
        if not self.ended:
            for token in self.request.sampler.forced():
                self._put(token)
        if not self.ended and self.request.sampler.finished:
            self._reason = "eos"
        self.watch.go_on()
        self.stats.generate_seconds = self.watch.decode_seconds

    def _put(self, token: int) -> None:
        """Add a token to the text, unless it or an earlier one ends it."""
        if self.ended:
            return
        if token in self.request.stop:
            self._reason = "eos"
            return
        self.tokens.append(token)
        self.stats.generated_tokens += 1
        if self.stats.generated_tokens == 1:
            self.stats.time_to_first_token_seconds = self.watch.seconds
        stream, text = self.request.stream, ""
        if stream is not None:
            text = self._stop.put(stream.put(token))
        self._tell(Token(token, text, self.request.sampler.log_probability))
        if self._stop.found is not None:
            self._reason = "stop"
        elif self.stats.generated_tokens == self.request.max_tokens:
            self._reason = "length"
        elif len(self.tokens) > self._context:
            self._reason = "context"

    def finish(self, reason: str) -> None:
        """Tell the end, and the text that was held back."""
        self._reason = reason = self._reason or reason
        text = ""
        if self.request.stream is not None and reason != "stop":
            text = self._stop.put(self.request.stream.finish()) + self._stop.finish()
        self._tell(Finish(reason, text))

    def fail(self, error: BaseException) -> None:  # noqa: D102
        self._reason = "error"
        self._tell(Failure(error))
