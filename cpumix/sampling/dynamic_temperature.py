"""A temperature that follows the entropy: low where the model is sure, high where it is not.

It lies between temperature - range and temperature + range, at the entropy of the candidates as a
share of the highest possible one, to the power of `dynatemp_exponent`.
"""

from __future__ import annotations

import math

import numpy as np

from .candidates import Candidates, Filter
from .params import SamplingParams
from .state import SequenceState
from .temperature import apply


def create(params: SamplingParams, state: SequenceState) -> Filter | None:
    """Return the filter, or None if it is off."""
    if params.dynatemp_range == 0:
        return None
    low = max(0.0, params.temperature - params.dynatemp_range)
    high = params.temperature + params.dynatemp_range

    def scale(candidates: Candidates) -> None:
        p = candidates.probabilities()
        if len(p) == 1:
            return
        p = p[p > 0]
        share = float(-(p * np.log(p)).sum()) / math.log(len(candidates.ids))
        power = min(max(share, 0.0), 1.0) ** params.dynatemp_exponent
        apply(candidates, low + (high - low) * power)

    return scale
