"""The slow twins of sampling: plain definitions, each from the whole sorted vocabulary."""

from __future__ import annotations

import numpy as np


def sort(logits):
    """Return all ids, best first, of equals the lowest id first."""
    return np.argsort(-logits, kind="stable")


def draw(random, ids, p):
    cumulative = np.cumsum(p)
    place = np.searchsorted(cumulative, random.random() * cumulative[-1], side="right")
    return int(ids[min(place, len(cumulative) - 1)])


def sample(logits, random, temperature, top_k=0, top_p=1.0):
    """Draw a token as the first sampler did: sort everything, then cut."""
    if temperature == 0:
        return int(logits.argmax())
    ids = sort(logits)
    if top_k:
        ids = ids[:top_k]
    behind = logits[ids].astype(np.float64) - logits[ids[0]]
    with np.errstate(over="ignore"):
        p = np.exp(behind / temperature)
    p /= p.sum()
    keep = 1 + int(np.searchsorted(np.cumsum(p), top_p)) if top_p < 1 else len(p)
    return draw(random, ids, p[:keep])
