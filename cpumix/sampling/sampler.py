"""Draws the tokens of one text."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import FormatError
from cpumix.tokenizer import Tokenizer

from .candidates import Candidates
from .filters import create_filters
from .grammar import Matcher
from .guide import Guide
from .history import History
from .log_probabilities import LogProbability, log_probability
from .mirostat import Mirostat
from .params import SamplingParams
from .state import SequenceState

SEED_BITS = 53  # seeds that we draw survive as numbers of JavaScript


class Sampler:
    """Draws tokens for one sequence: with its own parameters, past tokens and random numbers.

    What it draws depends on these and on the logits that it gets, not on other sequences.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int] = (),
        *,
        tokenizer: Tokenizer | None = None,
        ends: Collection[int] = (),
        max_tokens: int | None = None,
    ) -> None:
        """Begin after `prompt`; `ends` are the tokens that end a text.

        A text with a grammar is complete after `max_tokens` tokens if that is possible at all, and
        needs the `tokenizer`. Raises ConfigError for a grammar that cannot be enforced.
        """
        self.params = params
        self.seed = secrets.randbits(SEED_BITS) if params.seed is None else params.seed
        self._random = np.random.default_rng(self.seed)
        self._history = History(prompt)
        state = SequenceState(self._history, self._random, tokenizer, frozenset(ends))
        self._filters = create_filters(params, state)
        self._guide: Guide | None = None
        if params.constraint:
            assert tokenizer is not None
            matcher = Matcher(params.constraint, tokenizer, ends)
            self._guide = Guide(matcher, max_tokens, ends)
            self._filters.insert(0, self._guide.narrow)
        self.log_probability: LogProbability | None = None  # of the last token, if asked for
        self._mirostat = [f for f in self._filters if isinstance(f, Mirostat)]

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """Return the next token for logits (vocab_size,), and count it among the past ones.

        Raises FormatError for logits that are no numbers.
        """
        best = int(logits.argmax())  # a nan counts as the highest
        if not np.isfinite(logits[best]):
            raise FormatError(
                f"logits: expected numbers, found {logits[best]} for token {best}. "
                "The model file is damaged: run cpumix verify."
            )
        token = best
        if self._filters or not self.params.greedy:
            candidates = Candidates(logits)
            for narrow in self._filters:
                narrow(candidates)
            token = self._draw(candidates)
        if self._guide:
            token = self._guide.settle(token)
        if self.params.logprobs is not None:
            self.log_probability = log_probability(logits, token, self.params.logprobs)
        self._history.append(token)
        return token

    def forced(self) -> list[int]:
        """Return the tokens that a grammar forces next, having counted them among the past ones.

        They need no logits: a model can take them in together with the token before. When
        log-probabilities are asked for none are returned, as those need logits.
        """
        if self._guide is None or self.params.logprobs is not None:
            return []
        tokens = self._guide.forced()
        for token in tokens:
            self._history.append(token)
        return tokens

    @property
    def finished(self) -> bool:
        """Whether a grammar allows no further token."""
        return self._guide is not None and self._guide.finished

    @property
    def complete(self) -> bool:
        """Whether the text may end here: without a grammar it always may."""
        return self._guide is None or self._guide.complete

    def _draw(self, candidates: Candidates) -> int:
        if self.params.greedy:
            return int(candidates.ids[0])
        p = candidates.probabilities()
        cumulative = np.cumsum(p)
        place = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        place = min(int(place), len(p) - 1)
        for mirostat in self._mirostat:
            mirostat.observe(float(p[place]))
        return int(candidates.ids[place])
