"""Picks the next token from its logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError


class Sampler:
    """Temperature, then top-k, then top-p; temperature 0 takes the likeliest token.

    The same seed and logits give the same tokens. Top-k 0 and top-p 1 keep all tokens.
    """

    def __init__(self, temperature: float, top_k: int, top_p: float, seed: int | None) -> None:
        if not 0 <= temperature < float("inf"):
            raise ConfigError(f"temperature: expected 0 or more, found {temperature}.")
        if top_k < 0:
            raise ConfigError(f"top-k: expected 0 (all tokens) or more, found {top_k}.")
        if not 0 < top_p <= 1:
            raise ConfigError(f"top-p: expected more than 0 and at most 1, found {top_p}.")
        if seed is not None and seed < 0:
            raise ConfigError(f"seed: expected 0 or more, found {seed}.")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """Return a token id for logits (vocab_size,)."""
        if self.temperature == 0:
            return int(logits.argmax())
        ids = np.argsort(-logits, kind="stable")
        if self.top_k:
            ids = ids[: self.top_k]
        behind = logits[ids].astype(np.float64) - logits[ids[0]]
        with np.errstate(over="ignore"):  # next to no temperature: infinitely far behind, p = 0
            p = np.exp(behind / self.temperature)
        p /= p.sum()
        # Keep the tokens before the sum reaches top_p, and the one that reaches it.
        keep = 1 + int(np.searchsorted(np.cumsum(p), self.top_p)) if self.top_p < 1 else len(p)
        cumulative = np.cumsum(p[:keep])
        place = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(ids[min(place, len(cumulative) - 1)])
