"""Keep the tokens at least p times as likely as the likeliest (arXiv 2407.01082)."""

from __future__ import annotations

import math

from .candidates import Candidates, Filter
from .params import SamplingParams
from .state import SequenceState


def create(params: SamplingParams, state: SequenceState) -> Filter | None:
    """Return the filter, or None if it is off."""
    if params.min_p == 0:
        return None
    distance = -math.log(params.min_p)

    def cut(candidates: Candidates) -> None:
        candidates.keep_within(distance)

    return cut
