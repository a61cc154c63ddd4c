"""One matrix on its way to the model file: read, rounded for its inputs, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.checkpoint.matrix import Coded, widen
from cpumix.kernels.compensate import find_row_scales, panel_rounder
from cpumix.kernels.encode import INFINITE, encode, largest_bits
from cpumix.quant import FORMATS
from cpumix.quant.compensate import compensate
from cpumix.quant.tiles import TILE_ROWS

from ..losses import Losses
from ..slices import Encode, Slice, book_of, convert_slice, rows_of, to_numbers
from ..tensor_errors import ROUNDED_FORMATS
from .moments import Moments
from .workers import Workers

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
PIECE_ROWS = 256  # that one thread rounds at a time
SAMPLED_TILES = 8  # of a matrix, to estimate errors from


class OutputErrors(NamedTuple):
    """What rounding does to a matrix's outputs: mean sums of squares."""

    energy: float
    """Of the outputs themselves."""
    written: float
    by_format: NDArray[np.float64]
    """Of `ROUNDED_FORMATS`, without calibration."""

    def scaled(self, energy: float) -> NDArray[np.float64]:
        """Return what is written and by format, if the outputs have this energy."""
        factor = energy / self.energy if self.energy else 0.0
        return np.array([self.written, *self.by_format]) * factor


RoundedMatrix = tuple[Bytes, OutputErrors]


@dataclass(frozen=True)
class MatrixRounder:
    """What all matrices share."""

    workers: Workers
    losses: Losses
    read: Callable[[Slice], NDArray[Any] | Coded]

    def round(self, slices: Sequence[Slice], moments: Moments | None) -> RoundedMatrix:
        """Return the bytes of a matrix, whose slices these are, and its errors.

        Without moments it is rounded as without calibration, and its errors are those of the
        weights.
        """
        first = slices[0]
        rounds = FORMATS[first.format].rounder is not None and first.entry.book is None
        encoder = encode if moments is None or not rounds else self._encoder(moments)
        tiles, rows = [], []
        for s in slices:
            found = self.read(s)
            made, _ = convert_slice(s, found, self.losses, encoder)
            step = max(1, s.source.shape[0] // TILE_ROWS // SAMPLED_TILES)
            for tile in range(-(s.start // TILE_ROWS) % step, len(made), step):
                own = widen(to_numbers(rows_of(found, TILE_ROWS * tile, TILE_ROWS * (tile + 1))))
                became = FORMATS[s.format].dequantize(
                    made[tile : tile + 1], *own.shape, *book_of(s)
                )
                rows.append((own, became))
            tiles.append(made.reshape(-1))
        was, became = (np.concatenate(part) for part in zip(*rows, strict=True))
        share = first.source.shape[0] / len(was)
        return np.concatenate(tiles), self._measure(was, became, moments, share)

    def keep(self, slices: Sequence[Slice]) -> Bytes:
        """Return the bytes of a tensor that is not rounded."""
        made = (convert_slice(s, self.read(s), self.losses)[0] for s in slices)
        return np.concatenate([data.reshape(-1).view(np.uint8) for data in made])

    def _encoder(self, moments: Moments) -> Encode:
        def encode(rows: NDArray[Any], format_name: str) -> tuple[Bytes, int]:
            wide = widen(rows)
            largest = largest_bits(wide)
            target = FORMATS[format_name]
            assert target.rounder is not None
            if largest >= INFINITE:  # the caller will refuse it
                return np.zeros(target.nbytes(*wide.shape), np.uint8), largest
            rounder, round_panel = target.rounder, panel_rounder(format_name)
            scales, feedbacks = find_row_scales(wide, format_name), moments.feedbacks()

            def round_piece(first: int) -> Bytes:
                own = slice(first, first + PIECE_ROWS)
                return compensate(wide[own], feedbacks, rounder, round_panel, scales[own])[0]

            tiles = self.workers.map(round_piece, range(0, len(wide), PIECE_ROWS))
            return np.concatenate(tiles), largest

        return encode

    def _measure(
        self, was: Floats, became: Floats, moments: Moments | None, share: float
    ) -> OutputErrors:
        def loss(rows: Floats) -> float:
            total = float(np.square(rows).sum()) if moments is None else moments.loss(rows)
            return share * total if np.isfinite(total) else np.inf

        by_format = []
        with np.errstate(over="ignore", invalid="ignore"):  # weights too large for a format
            for name in ROUNDED_FORMATS:
                tiles, _ = encode(was, name)
                plain = FORMATS[name].dequantize(tiles, *was.shape)
                by_format.append(loss(was - plain))
        return OutputErrors(loss(was), loss(was - became), np.array(by_format))
