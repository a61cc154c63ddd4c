"""What each group of matrices loses at each format: what mixes are composed by.

The default was measured once on a real model with its own routing (tools/measure_sensitivity.py):
the KL divergence, in nats, that one group alone adds when it takes a format. A model that was never
measured is taken to be as sensitive at each relative depth as that one; sizes of losses differ
between models, but only their order and proportions matter here. That the first layers suffer most
is what others found in Mixtral 8x7B too (QuantMoE-Bench, arXiv 2406.08155). A model file that was
calibrated brings its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

Nats = Mapping[str, float]
"""Losses by format."""


@dataclass(frozen=True)
class LayerLosses:
    """What one layer's groups lose."""

    attention: Nats
    gate_up: Nats
    down: Nats


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What a model's groups lose, in as many layers as were measured."""

    layers: tuple[LayerLosses, ...]
    head: Nats
    embedding: Nats

    def of_layers(self, count: int) -> tuple[LayerLosses, ...]:
        """Return the losses of a model of so many layers.

        Those measured are laid over the depth of the model, each at the middle of one of equal
        parts, and read at the middle of each layer: straight lines between, level beyond the
        outermost. Their sums stay what they were.
        """
        if count == len(self.layers):
            return self.layers
        kinds = ("attention", "gate_up", "down")
        laid = {kind: _lay([getattr(own, kind) for own in self.layers], count) for kind in kinds}
        return tuple(LayerLosses(*(laid[kind][layer] for kind in kinds)) for layer in range(count))


def _lay(measured: Sequence[Nats], count: int) -> list[dict[str, float]]:
    laid: list[dict[str, float]] = [{} for _ in range(count)]
    for name in measured[0]:
        values = [own[name] for own in measured]
        shares = [_at(values, (i + 0.5) / count * len(values) - 0.5) for i in range(count)]
        scale = sum(values) / sum(shares) if sum(shares) else 0.0
        for own, share in zip(laid, shares, strict=True):
            own[name] = share * scale
    return laid


def _at(values: Sequence[float], place: float) -> float:
    place = min(max(place, 0.0), len(values) - 1.0)
    left = min(int(place), max(len(values) - 2, 0))
    right = min(left + 1, len(values) - 1)
    return values[left] + (place - left) * (values[right] - values[left])


def _nats(**losses: float) -> Nats:
    return MappingProxyType(losses)


def _experts(q2s: float, q3s: float, q4s: float, q6: float, q8: float) -> Nats:
    return _nats(q2s=q2s, q3s=q3s, q4s=q4s, q6=q6, q8=q8)


# fmt: off
MEASURED = Sensitivity(
    layers=tuple(
        LayerLosses(
            attention=_nats(q6=0.0001, q8=0.000017),
            gate_up=_experts(0.523 * a, 0.0954 * a, 0.0256 * a, 0.0044 * a, 0.0011 * a),
            down=_experts(0.477 * a, 0.0870 * a, 0.0234 * a, 0.0040 * a, 0.0010 * a),
        )
        for a in (0.0550, 0.0033, 0.0083, 0.0103, 0.0110, 0.0081)
    ),
    head=_nats(q6=0.0003, q8=0.00006),
    embedding=_nats(q6=0.0008, q8=0.00011),
)
# fmt: on
