"""Keep the fewest tokens that hold p of the probability (nucleus sampling, arXiv 1904.09751)."""

from __future__ import annotations

import numpy as np

from .candidates import Candidates, Filter
from .params import SamplingParams
from .state import SequenceState


def create(params: SamplingParams, state: SequenceState) -> Filter | None:
    """Return the filter, or None if it is off."""
    share = params.top_p
    if share == 1:
        return None

    def cut(candidates: Candidates) -> None:
        sums = np.cumsum(candidates.probabilities())
        candidates.keep(1 + int(np.searchsorted(sums, share)))  # the one that reaches it is kept

    return cut
