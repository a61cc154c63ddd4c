"""Keep the k likeliest tokens."""

from __future__ import annotations

from .candidates import Candidates, Filter
from .params import SamplingParams
from .state import SequenceState


def create(params: SamplingParams, state: SequenceState) -> Filter | None:
    """Return the filter, or None if it is off."""
    k = params.top_k
    if k == 0:
        return None

    def cut(candidates: Candidates) -> None:
        candidates.keep(k)

    return cut
