"""Make tokens less likely that came up lately: repetition, presence and frequency penalty.

The repetition penalty (Keskar et al. 2019, arXiv 1909.05858) divides positive logits and multiplies
the others, so that both fall; the other two are subtracted, presence once and frequency once for
each time.
"""

from __future__ import annotations

import numpy as np

from .candidates import Candidates, Filter
from .params import SamplingParams
from .state import SequenceState


def create(params: SamplingParams, state: SequenceState) -> Filter | None:
    """Return the filter, or None if all three are off."""
    repeat, window = params.repeat_penalty, params.repeat_last_n
    presence, frequency = params.presence_penalty, params.frequency_penalty
    if window == 0 or (repeat == 1 and presence == 0 and frequency == 0):
        return None

    def penalize(candidates: Candidates) -> None:
        ids, counts = np.unique(state.history.last(window), return_counts=True)
        logits = candidates.adjust()
        found = logits[ids]
        found = np.where(found <= 0, found * np.float32(repeat), found / np.float32(repeat))
        logits[ids] = found - (counts * float(frequency) + presence)

    return penalize
