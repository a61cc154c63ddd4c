"""What rounding does to each tensor: recorded in the model file, for those who choose levels.

See `store.layout` for what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cpumix.config import Role
from cpumix.quant import FORMATS
from cpumix.store import TensorEntry, layout

from .losses import Sample

PARTS = 2  # of an expert: w1 and w3, w2; other tensors have one
ROUNDED_FORMATS = tuple(name for name, f in FORMATS.items() if f.rounder)


class TensorErrors:
    """The numbers of all tensors of one model."""

    def __init__(self, entries: Sequence[TensorEntry], calibrated: bool) -> None:
        self._places = {entry.name: i for i, entry in enumerate(entries)}
        self.written = np.zeros((len(entries), PARTS), np.float32)
        self.by_format = np.zeros((len(entries), PARTS * len(ROUNDED_FORMATS)), np.float32)
        self._second = {entry.parts[2][0] for entry in entries if entry.spec.role is Role.EXPERT}
        self._sums = np.zeros((len(entries), PARTS, 2))
        self._calibrated = calibrated

    @property
    def metadata(self) -> dict[str, object]:
        """What is known from the start."""
        kind = layout.OF_OUTPUTS if self._calibrated else layout.OF_WEIGHTS
        known: dict[str, object] = {layout.ERROR_KIND_KEY: kind}
        return known | (
            {layout.ERROR_FORMATS_KEY: list(ROUNDED_FORMATS)} if self._calibrated else {}
        )

    @property
    def results(self) -> dict[str, NDArray[np.float32]]:
        """What becomes known with each tensor."""
        found = {layout.ERRORS_KEY: self.written}
        return found | ({layout.FORMAT_ERRORS_KEY: self.by_format} if self._calibrated else {})

    def add(self, name: str, source: str, sample: Sample) -> None:
        """Count rows of a tensor's matrix `source`, rounded without calibration."""
        place, part = self._places[name], int(source in self._second)
        self._sums[place, part] += sample
        error, energy = self._sums[place, part]
        self.written[place, part] = error / energy if energy else 0.0

    def note(self, name: str, part: int, errors: NDArray[np.float64]) -> None:
        """Note a tensor's error as written and, if known, those of `ROUNDED_FORMATS` behind it."""
        place, first = self._places[name], part * len(ROUNDED_FORMATS)
        self.written[place, part] = errors[0]
        self.by_format[place, first : first + len(errors) - 1] = errors[1:]
