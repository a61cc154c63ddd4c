"""Exclude top choices, now and then: of the tokens above a threshold keep the least likely.

Source: https://github.com/oobabooga/text-generation-webui/pull/6335
"""

from __future__ import annotations

import numpy as np

from .candidates import Candidates, Filter
from .params import SamplingParams
from .state import SequenceState


def create(params: SamplingParams, state: SequenceState) -> Filter | None:
    """Return the filter, or None if it is off: two tokens cannot both be above 0.5."""
    chance, threshold = params.xtc_probability, params.xtc_threshold
    if chance == 0 or threshold > 0.5:
        return None

    def exclude(candidates: Candidates) -> None:
        if len(candidates.ids) < 2 or state.random.random() > chance:
            return
        above = int(np.searchsorted(-candidates.probabilities(), -threshold, side="right"))
        if above > 1:
            candidates.keep_where(np.arange(len(candidates.ids)) >= above - 1)

    return exclude
