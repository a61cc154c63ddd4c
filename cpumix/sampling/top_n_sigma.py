"""Keep the tokens within n standard deviations of the highest logit (arXiv 2411.07641)."""

from __future__ import annotations

from .candidates import Candidates, Filter
from .params import SamplingParams
from .state import SequenceState


def create(params: SamplingParams, state: SequenceState) -> Filter | None:
    """Return the filter, or None if it is off."""
    n = params.top_n_sigma
    if n <= 0:
        return None

    def cut(candidates: Candidates) -> None:
        candidates.keep_within(n * candidates.spread())

    return cut
