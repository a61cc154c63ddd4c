"""How likely the model itself finds a token: before any filter, at temperature 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .candidates import best_first


@dataclass(frozen=True)
class LogProbability:
    """Natural logarithms of the probability of a drawn token, and of the likeliest ones."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # (token, log-probability), likeliest first


def log_probability(logits: NDArray[np.float32], token: int, count: int) -> LogProbability:
    """Return the log-softmax of `token` and of the `count` likeliest, from logits (vocab_size,)."""
    highest = float(logits.max())
    behind = logits.astype(np.float64) - highest
    total = float(np.log(np.exp(behind).sum()))
    top = best_first(logits, count or 1)[:count]  # 0 would mean all
    return LogProbability(
        token,
        float(behind[token]) - total,
        tuple((int(other), float(behind[other]) - total) for other in top),
    )
