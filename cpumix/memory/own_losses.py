"""What a calibrated model file says its own groups of matrices lose, for mixes of the same model.

A calibrated conversion records for each matrix and format the energy that rounding adds to the
residual stream, and the stream's own energy behind each norm (see `store.layout`). What a group
loses is taken to be proportional to the ratio of the two, where the group writes to the stream; the
factor makes the sum over all experts at 3 bits that of the model in `quant.sensitivity`, so that a
nat is worth as much time as there. The head's errors are those of logits, whose KL divergence is
half their mean square.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ATTENTION_MATRICES, ModelConfig, Role, tensor_name
from cpumix.errors import ConfigError
from cpumix.quant.sensitivity import MEASURED, LayerLosses, Nats, Sensitivity
from cpumix.store import ModelFile, layout

from .mixing import DENSE_FORMATS, EXPERT_FORMATS

SCALED_BY = "q3s"  # the format whose losses make the scale
TINY = 1e-30
_SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_local_experts")


def read_losses(path: Path, config: ModelConfig) -> Sensitivity:
    """Return the losses that a model file has of its own groups.

    Raises ConfigError for a file that was not calibrated, and for one of another model than that
    of `config`.
    """
    with ModelFile(path) as file:
        if any(getattr(file.config, name) != getattr(config, name) for name in _SHAPE):
            raise ConfigError(
                f'losses: expected a file of the same model, found one of another shape: "{path}". '
                "Name a calibrated file of this model."
            )
        recorded = _Recorded.of(file)
        if recorded is None:
            raise ConfigError(
                f'losses: expected a file that was calibrated, found none: "{path}". Convert the '
                "checkpoint with --calibrate to any level first."
            )
        return _sensitivity(recorded, config)


@dataclass(frozen=True)
class _Recorded:
    """The errors of a calibrated file's tensors."""

    places: Mapping[str, int]
    """Of tensors, by name, in the arrays."""
    written: NDArray[np.float32]
    """(tensors, 2), as the file was written."""
    by_format: Mapping[str, NDArray[np.float32]]
    """(tensors, 2), as each of these formats would have it."""

    @classmethod
    def of(cls, file: ModelFile) -> _Recorded | None:
        """Return those of a file; None if it has none, or what it has cannot be used."""
        data, count = file.metadata, len(file.tensors)
        if data.get(layout.ERROR_KIND_KEY) != layout.OF_OUTPUTS:
            return None
        formats = data.get(layout.ERROR_FORMATS_KEY)
        if not isinstance(formats, list) or not {*EXPERT_FORMATS} <= {*formats}:
            return None
        written = _array(data.get(layout.ERRORS_KEY), (count, 2))
        others = _array(data.get(layout.FORMAT_ERRORS_KEY), (count, 2, len(formats)))
        if written is None or others is None:
            return None
        places = {name: place for place, name in enumerate(file.tensors)}
        return cls(places, written, {kind: others[..., i] for i, kind in enumerate(formats)})

    def losses(
        self, names: Iterable[str], part: int, formats: Iterable[str], energy: float
    ) -> Nats:
        """Return what tensors, or a part of experts, would add to a stream of this energy."""
        places = [self.places[name] for name in names if name in self.places]
        errors = {kind: self.by_format[kind][places, part].tolist() for kind in formats}
        return {kind: sum(found) / max(energy, TINY) for kind, found in errors.items()}

    def energy(self, role: Role, layer: int | None = None) -> float:
        """Return the stream's energy at a norm."""
        return float(self.written[self.places[tensor_name(role, layer)], 0])


def _array(found: object, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Return metadata as an array of this shape, None if it is none of errors."""
    if not isinstance(found, np.ndarray) or found.size != prod(shape):
        return None
    return found.reshape(shape) if np.isfinite(found).all() and found.min() >= 0 else None


def _sensitivity(recorded: _Recorded, config: ModelConfig) -> Sensitivity:
    layers, experts = config.num_hidden_layers, range(config.num_local_experts)

    def dense(roles: Iterable[Role], layer: int | None, energy: float) -> Nats:
        names = [tensor_name(role, layer) for role in roles]
        return recorded.losses(names, 0, DENSE_FORMATS, energy)

    def of_layer(layer: int) -> LayerLosses:
        last = layer == layers - 1
        behind = (Role.OUTPUT_NORM, None) if last else (Role.ATTN_NORM, layer + 1)
        energy = recorded.energy(*behind)
        names = [tensor_name(Role.EXPERT, layer, expert) for expert in experts]
        return LayerLosses(
            dense(ATTENTION_MATRICES, layer, recorded.energy(Role.FFN_NORM, layer)),
            recorded.losses(names, 0, EXPERT_FORMATS, energy),
            recorded.losses(names, 1, EXPERT_FORMATS, energy),
        )

    own = [of_layer(layer) for layer in range(layers)]
    found = sum(layer.gate_up[SCALED_BY] + layer.down[SCALED_BY] for layer in own)
    wanted = sum(layer.gate_up[SCALED_BY] + layer.down[SCALED_BY] for layer in MEASURED.layers)
    scale = wanted / found if found else 1.0
    return Sensitivity(
        tuple(
            LayerLosses(*(_times(part, scale) for part in (one.attention, one.gate_up, one.down)))
            for one in own
        ),
        head=dense((Role.OUTPUT,), None, 2.0),
        embedding=_times(dense((Role.EMBEDDING,), None, recorded.energy(Role.ATTN_NORM, 0)), scale),
    )


def _times(losses: Nats, factor: float) -> Nats:
    return {kind: factor * loss for kind, loss in losses.items()}
