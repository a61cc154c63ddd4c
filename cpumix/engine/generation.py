"""A text in the making: what `Model.generate` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cpumix.kernels.compile import jit
from cpumix.tokenizer import TextStream

from .stats import Stats


class Generation:
    """Text as it comes: iterate over it once. `stop_reason` is set at the end.

    It is "eos" (the model ended its text), "length" (`max_tokens`) or "context" (no room left).
    """

    def __init__(
        self,
        tokens: Callable[[Generation], Iterator[int]],
        stream: TextStream,
        measure: Callable[[Stats], None],
    ) -> None:
        self.stop_reason = ""
        self._stats, self._ended = Stats(), False
        self._stream, self._measure = stream, measure
        self._tokens = tokens(self)

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
                if piece := self._stream.put(token):
                    yield piece
            if piece := self._stream.finish():
                yield piece
            jit.mark_warm()
        finally:
            self._measure(self._stats)
            self._ended = True
