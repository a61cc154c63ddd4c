"""What became of a checkpoint's numbers: kept as they were, or rounded, and by how much."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.quant import FLOAT32, FORMATS
from cpumix.quant.tiles import TILE_ROWS


@dataclass(frozen=True)
class Loss:
    """What happened to all tensors of one part of the model that were stored in one way."""

    part: str
    """"experts" or "the rest"."""
    encoding: str
    """In the checkpoint."""
    format: str
    """In the model file."""
    tensors: int
    exact: bool
    """Whether every number is the same."""
    relative_rms: float
    """RMS of what rounding changed over the RMS of the weights, in sixteen rows of each tensor."""

    def __str__(self) -> str:
        """Say it in one line."""
        count = f"{self.tensors} tensor{'s' if self.tensors > 1 else ''}"
        what = "same numbers" if self.exact else f"relative RMS error {self.relative_rms:.2g}"
        return f"{self.part}: {count} of {self.encoding} as {self.format}, {what}"


class Sample(NamedTuple):
    """Sums of squares over some rows of a tensor."""

    error: float
    """Of what rounding changed."""
    energy: float


@dataclass
class _Sum:
    tensors: int = 0
    exact: bool = True
    errors: float = 0.0
    squares: float = 0.0


@dataclass
class Losses:
    """Counts what happens to each slice of each tensor."""

    _sums: dict[tuple[str, str, str], _Sum] = field(default_factory=dict)

    def add(
        self,
        key: tuple[str, str, str],
        is_first: bool,
        rows: NDArray[np.float32] | None,
        data: NDArray[np.uint8],
        *book: NDArray[np.int8],
    ) -> Sample:
        """Count a slice under (part, encoding, format): `data` is what became of it.

        `rows` are the first rows of the slice as they were, None if nothing was rounded;
        `is_first` says that it is the first slice of its tensor, which is looked at.
        """
        found = self._sums.setdefault(key, _Sum())
        found.tensors += is_first
        found.exact = found.exact and rows is None
        if is_first and rows is not None:
            sample = rows[:TILE_ROWS].astype(np.float64)
            became = FORMATS[key[2]].dequantize(data[:1], *sample.shape, *book)
            looked = Sample(float(((became - sample) ** 2).sum()), float((sample**2).sum()))
            found.errors += looked.error
            found.squares += looked.energy
            return looked
        return Sample(0.0, 0.0)

    def all(self) -> tuple[Loss, ...]:
        """Return what happened, the experts first."""
        return tuple(
            Loss(*key, s.tensors, s.exact, sqrt(s.errors / s.squares) if s.squares else 0.0)
            for key, s in sorted(self._sums.items(), key=lambda item: item[0])
            if key[2] != FLOAT32
        )
