"""Divide logits by a temperature: below 1 sharpens, above 1 flattens, 0 takes the likeliest."""

from __future__ import annotations

from .candidates import Candidates, Filter
from .params import SamplingParams
from .state import SequenceState


def create(params: SamplingParams, state: SequenceState) -> Filter | None:
    """Return the filter, or None if it is off, or dynamic (which mirostat does not know)."""
    temperature = params.temperature
    if temperature == 1 or (params.dynatemp_range > 0 and not params.mirostat):
        return None

    def scale(candidates: Candidates) -> None:
        apply(candidates, temperature)

    return scale


def apply(candidates: Candidates, temperature: float) -> None:
    """Divide by a temperature, or keep the likeliest if it is 0."""
    if temperature == 0:
        candidates.keep(1)
    else:
        candidates.scale(temperature)
