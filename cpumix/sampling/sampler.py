"""Draws the tokens of one text."""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from .candidates import Candidates
from .params import SamplingParams

SEED_BITS = 53  # seeds that we draw survive as numbers of JavaScript


class Sampler:
    """Draws tokens for one sequence: its parameters, and its own random numbers.

    What it draws depends on nothing but these and the logits that it gets: not on other sequences.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self.seed = secrets.randbits(SEED_BITS) if params.seed is None else params.seed
        self._random = np.random.default_rng(self.seed)

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """Return a token id for logits (vocab_size,); raise FormatError if they are no numbers."""
        best = int(logits.argmax())  # a nan counts as the highest
        if not np.isfinite(logits[best]):
            raise FormatError(
                f"logits: expected numbers, found {logits[best]} for token {best}. "
                "The model file is damaged: run cpumix verify."
            )
        if self.params.temperature == 0:
            return best
        candidates = Candidates(logits, self.params.top_k)
        with np.errstate(over="ignore"):  # next to no temperature: infinitely far behind, p = 0
            candidates.behind /= self.params.temperature
        p = candidates.probabilities()
        if self.params.top_p < 1:
            # Keep the tokens before the sum reaches top_p, and the one that reaches it.
            p = p[: 1 + int(np.searchsorted(np.cumsum(p), self.params.top_p))]
        cumulative = np.cumsum(p)
        place = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(candidates.ids[min(place, len(cumulative) - 1)])
