"""Keep the tokens whose surprise is nearest to the expected one (arXiv 2202.00666)."""

from __future__ import annotations

import numpy as np

from .candidates import Candidates, Filter
from .params import SamplingParams
from .state import SequenceState


def create(params: SamplingParams, state: SequenceState) -> Filter | None:
    """Return the filter, or None if it is off."""
    share = params.typical_p
    if share == 1:
        return None

    def cut(candidates: Candidates) -> None:
        p = candidates.probabilities()
        with np.errstate(divide="ignore"):  # p = 0: infinitely surprising, and never met
            surprise = -np.log(p)
        entropy = (p[p > 0] * surprise[p > 0]).sum()
        nearest = np.argsort(np.abs(surprise - entropy), kind="stable")
        count = 1 + int(np.searchsorted(np.cumsum(p[nearest]), share, side="right"))
        kept = np.zeros(len(p), np.bool_)
        kept[nearest[:count]] = True  # the one that exceeds `share` is kept
        candidates.keep_where(kept)

    return cut
