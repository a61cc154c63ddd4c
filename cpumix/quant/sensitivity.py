"""Which layers' experts gain most from 8 bits instead of 4.

Measured once on a real model with its own routing (tools/measure_sensitivity.py): the KL divergence
that int4 experts in one layer alone add to a model that is int8 elsewhere. A model that was never
measured is taken to be as sensitive at each relative depth as the measured one: an assumption, but
a mild one, for all layers cost the same bytes and only the order matters. That the first layers
suffer most is what others found in Mixtral 8x7B too (QuantMoE-Bench, arXiv 2406.08155).
"""

from __future__ import annotations

from functools import lru_cache

# nats, by layer; tools/sensitivity.json has them with the conditions of the measurement
PROFILE = (0.002638, 0.000266, 0.000540, 0.000677, 0.000678, 0.000337)


def sensitivities(layers: int) -> list[float]:
    """Return each layer's share of the loss between int8 and int4; the shares sum up to one.

    The profile is laid over the depth of the model, its values at the middles of equal parts, and
    read at the middle of each layer: straight lines between, level beyond the outermost.
    """
    values = [_at((layer + 0.5) / layers * len(PROFILE) - 0.5) for layer in range(layers)]
    total = sum(values)
    return [value / total for value in values]


@lru_cache(maxsize=16)  # a plan of every mix asks
def most_sensitive(layers: int) -> tuple[int, ...]:
    """Return the layers of a model, the one that gains most from 8 bits first."""
    shares = sensitivities(layers)
    return tuple(sorted(range(layers), key=lambda layer: (-shares[layer], layer)))


def _at(place: float) -> float:
    place = min(max(place, 0.0), len(PROFILE) - 1.0)
    left = min(int(place), len(PROFILE) - 2)
    return PROFILE[left] + (place - left) * (PROFILE[left + 1] - PROFILE[left])
