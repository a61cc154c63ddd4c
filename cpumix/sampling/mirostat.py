"""Mirostat 2: cut so that each token surprises by `mirostat_tau` bits on average.

Source: Basu et al. 2021, arXiv 2007.14966, algorithm 2.
"""

from __future__ import annotations

import math

import numpy as np

from .candidates import Candidates
from .params import SamplingParams
from .state import SequenceState


class Mirostat:
    """A limit of surprise that learns from what was drawn."""

    def __init__(self, tau: float, eta: float) -> None:
        self._tau, self._eta = tau, eta
        self._limit = 2 * tau  # bits

    def __call__(self, candidates: Candidates) -> None:
        """Keep the tokens that surprise by no more than the limit, and always the likeliest."""
        with np.errstate(divide="ignore"):  # p = 0: infinitely surprising
            surprise = -np.log2(candidates.probabilities())
        candidates.keep(max(1, int(np.searchsorted(surprise, self._limit, side="right"))))

    def observe(self, probability: float) -> None:
        """Learn from the probability that the drawn token had among those kept."""
        self._limit -= self._eta * (-math.log2(probability) - self._tau)


def create(params: SamplingParams, state: SequenceState) -> Mirostat | None:
    """Return the filter, or None if it is off."""
    return Mirostat(params.mirostat_tau, params.mirostat_eta) if params.mirostat else None
