"""What a calibrated model file says its own groups of matrices lose, for mixes of the same model.

A calibrated conversion records for each matrix and format the energy that rounding adds to the
residual stream, and the stream's own energy behind each norm (see `store.layout`). What a group
loses is taken to be proportional to the ratio of the two, where the group writes to the stream; the
factor makes the sum over all experts at 3 bits that of the model in `quant.sensitivity`, so that a
nat is worth as much time as there. The head's errors are those of logits, whose KL divergence is
half their mean square.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig, Role, tensor_name
from cpumix.errors import ConfigError
from cpumix.quant.sensitivity import MEASURED, LayerLosses, Nats, Sensitivity
from cpumix.store import ModelFile, layout

from .mixing import DENSE_FORMATS, EXPERT_FORMATS

SCALED_BY = "q3s"  # the format whose losses make the scale
TINY = 1e-30
_ATTENTION = (Role.WQ, Role.WK, Role.WV, Role.WO)
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


class _Recorded:
    """The errors of a calibrated file's tensors."""

    def __init__(
        self, names: list[str], written: NDArray[np.float32], by_format: NDArray[np.float32],
        formats: list[str],
    ) -> None:  # fmt: skip
        self._place = {name: i for i, name in enumerate(names)}
        self._written, self._by_format, self._formats = written, by_format, formats

    @classmethod
    def of(cls, file: ModelFile) -> _Recorded | None:
        """Return those of a file; None if it has none, or what it has cannot be used."""
        data, names = file.metadata, list(file.tensors)
        if data.get(layout.ERROR_KIND_KEY) != layout.OF_OUTPUTS:
            return None
        formats = data.get(layout.ERROR_FORMATS_KEY)
        arrays = [data.get(key) for key in (layout.ERRORS_KEY, layout.FORMAT_ERRORS_KEY)]
        if not isinstance(formats, list) or not {*EXPERT_FORMATS} <= {*formats}:
            return None
        sizes = 2 * len(names), 2 * len(names) * len(formats)
        for array, size in zip(arrays, sizes, strict=True):
            if not isinstance(array, np.ndarray) or array.size != size:
                return None
            if not np.isfinite(array).all() or array.min() < 0:
                return None
        written, by_format = arrays
        assert isinstance(written, np.ndarray) and isinstance(by_format, np.ndarray)
        shape = len(names), 2, len(formats)
        return cls(names, written.reshape(-1, 2), by_format.reshape(shape), formats)

    def error(
        self, role: Role, layer: int | None, kind: str, part: int, expert: int | None
    ) -> float:
        """Return what a tensor, or a part of an expert, would add in a format."""
        place = self._place.get(tensor_name(role, layer, expert))
        return 0.0 if place is None else float(
            self._by_format[place, part, self._formats.index(kind)]
        )  # fmt: skip

    def energy(self, role: Role, layer: int | None = None) -> float:
        """Return the stream's energy at a norm."""
        return float(self._written[self._place[tensor_name(role, layer)], 0])


def _sensitivity(recorded: _Recorded, config: ModelConfig) -> Sensitivity:
    layers, experts = config.num_hidden_layers, range(config.num_local_experts)
    energies = [recorded.energy(Role.ATTN_NORM, layer) for layer in range(1, layers)]
    behind = [*energies, recorded.energy(Role.OUTPUT_NORM)]  # each layer's experts

    def of_experts(layer: int, part: int) -> Nats:
        return {
            kind: sum(recorded.error(Role.EXPERT, layer, kind, part, e) for e in experts)
            / max(behind[layer], TINY)
            for kind in EXPERT_FORMATS
        }

    def of_dense(roles: tuple[Role, ...], layer: int | None, energy: float) -> Nats:
        return {
            kind: sum(recorded.error(role, layer, kind, 0, None) for role in roles)
            / max(energy, TINY)
            for kind in DENSE_FORMATS
        }

    own = [
        LayerLosses(
            of_dense(_ATTENTION, layer, recorded.energy(Role.FFN_NORM, layer)),
            of_experts(layer, 0),
            of_experts(layer, 1),
        )
        for layer in range(layers)
    ]
    found = sum(layer.gate_up[SCALED_BY] + layer.down[SCALED_BY] for layer in own)
    wanted = sum(layer.gate_up[SCALED_BY] + layer.down[SCALED_BY] for layer in MEASURED.layers)
    scale = wanted / found if found else 1.0
    embedding = of_dense((Role.EMBEDDING,), None, recorded.energy(Role.ATTN_NORM, 0))
    return Sensitivity(
        tuple(
            LayerLosses(*(_times(part, scale) for part in (one.attention, one.gate_up, one.down)))
            for one in own
        ),
        head=of_dense((Role.OUTPUT,), None, 2.0),
        embedding=_times(embedding, scale),
    )


def _times(losses: Nats, factor: float) -> Nats:
    return {kind: factor * loss for kind, loss in losses.items()}
