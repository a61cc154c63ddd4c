"""What each group of matrices loses at each format: what mixes are composed by.

The default was measured once on a real model with its own routing: the part, in nats, that each
group at each format has in the KL divergence of the whole model (tools/measure_sensitivity.py, with
tools/sensitivity.json as its result; roundings without calibration). A model that was never
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


def _dense(q6: float, q8: float) -> Nats:
    return _nats(q6=q6, q8=q8)


def _experts(q2s: float, q3s: float, q4s: float, q6: float, q8: float) -> Nats:
    return _nats(q2s=q2s, q3s=q3s, q4s=q4s, q6=q6, q8=q8)


MEASURED = Sensitivity(
    layers=(
        LayerLosses(
            attention=_dense(0.000194, 9.91e-05),
            gate_up=_experts(0.0318, 0.00412, 0.00117, 0.000152, 8.9e-05),
            down=_experts(0.0242, 0.00514, 0.00149, 0.000263, 0.000104),
        ),
        LayerLosses(
            attention=_dense(9.08e-05, 8.66e-05),
            gate_up=_experts(0.00258, 0.000481, 0.000253, 2.98e-05, 2.15e-05),
            down=_experts(0.00163, 0.000422, 0.000203, 1.23e-05, 8.02e-06),
        ),
        LayerLosses(
            attention=_dense(0.000188, 9.58e-05),
            gate_up=_experts(0.00718, 0.00131, 0.000636, 5.89e-05, 2.29e-05),
            down=_experts(0.00423, 0.00131, 0.000484, 9.74e-05, 5.09e-05),
        ),
        LayerLosses(
            attention=_dense(9.55e-05, 5.69e-05),
            gate_up=_experts(0.00788, 0.00167, 0.000337, 7.05e-05, 3.4e-05),
            down=_experts(0.00502, 0.00112, 0.000228, 3.12e-05, 2.14e-05),
        ),
        LayerLosses(
            attention=_dense(7.88e-05, 1.76e-05),
            gate_up=_experts(0.00789, 0.00134, 0.000362, 5.56e-05, 8.26e-06),
            down=_experts(0.00424, 0.000844, 0.000264, 4.45e-05, 5.29e-06),
        ),
        LayerLosses(
            attention=_dense(3.31e-05, 2.12e-06),
            gate_up=_experts(0.00588, 0.000941, 0.000155, 1.02e-05, 2.2e-06),
            down=_experts(0.00273, 0.000465, 9.46e-05, 7.91e-06, 2.86e-06),
        ),
    ),
    head=_dense(0.000142, 2.14e-05),
    embedding=_dense(0.00043, 8.33e-05),
)
