"""Add numbers to the logits of some tokens; `ignore_eos` rules out those that end a text."""

from __future__ import annotations

import numpy as np

from cpumix.errors import ConfigError

from .candidates import Candidates, Filter
from .params import SamplingParams
from .state import SequenceState


def create(params: SamplingParams, state: SequenceState) -> Filter | None:
    """Return the filter, or None if there is no bias."""
    biases = dict(params.logit_bias)
    if params.ignore_eos:
        biases |= dict.fromkeys(state.ends, -np.inf)
    if not biases:
        return None
    ids, values = np.array([*biases]), np.array([*biases.values()], np.float32)

    def bias(candidates: Candidates) -> None:
        logits = candidates.adjust()
        if ids.max() >= len(logits):
            raise ConfigError(
                f"logit_bias: expected tokens below {len(logits)}, the size of the vocabulary, "
                f"found {ids.max()}."
            )
        logits[ids] += values

    return bias
