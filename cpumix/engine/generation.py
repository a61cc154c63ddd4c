"""A text in the making: what `Model.generate` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cpumix.kernels.compile import jit
from cpumix.sampling import LogProbability, Sampler, StopMatcher
from cpumix.tokenizer import TextStream

from .stats import Stats


class Generation:
    """Text as it comes: iterate over it once. `stop_reason` is set at the end.

    It is "eos" (the model ended its text, or a grammar did), "stop" (a stop string came),
    "length" (`max_tokens`) or "context" (no room left).
    """

    def __init__(
        self,
        tokens: Callable[[Generation], Iterator[int]],
        stream: TextStream,
        measure: Callable[[Stats], None],
        sampler: Sampler,
    ) -> None:
        self.stop_reason = ""
        self.log_probabilities: list[LogProbability] = []  # of each token, if asked for
        self._stats, self._ended = Stats(), False
        self._stream, self._measure, self._sampler = stream, measure, sampler
        self._stop = StopMatcher(sampler.params.stop)
        self._tokens = tokens(self)

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
        if not self._ended:
            self._measure(self._stats)
        return self._stats

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of text; each is whole characters."""
        try:
            for token in self._tokens:
                if self._sampler.log_probability:
                    self.log_probabilities.append(self._sampler.log_probability)
                if piece := self._stop.put(self._stream.put(token)):
                    yield piece
                if self._stop.found:
                    break
            if piece := self._stop.put(self._stream.finish()) + self._stop.finish():
                yield piece
            if self._stop.found:
                self.stop_reason = "stop"
            jit.mark_warm()
        finally:
            self._measure(self._stats)
            self._ended = True
