"""Hands out expert weights as views of the mapped file; the system pages in what is touched.

An expert of a layer is one contiguous range of the file, w1 | w3 | w2, so that a cold one is one
sequential read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .kernels.operands import Matrix
from .quant import FORMATS
from .quant.tiles import tile_counts
from .store.reader import ModelFile


class Expert(NamedTuple):
    """One expert of one layer: w2(silu(w1 x) * w3 x)."""

    w1: Matrix
    w3: Matrix
    w2: Matrix


def as_matrix(data: NDArray[np.uint8], format_name: str, n: int, k: int) -> Matrix:
    """View bytes of the file as the tiles of an (n, k) matrix."""
    return Matrix(format_name, data.reshape(*tile_counts(n, k), FORMATS[format_name].tile_bytes))


class ExpertPager:
    """Leases experts by layer and index."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self._views: dict[tuple[int, int], Expert] = {}

    @contextmanager
    def lease(self, layer: int, experts: Sequence[int]) -> Iterator[dict[int, Expert]]:
        """Yield the named experts' weights, usable inside the `with` block."""
        yield {e: self._view(layer, e) for e in experts}

    def _view(self, layer: int, expert: int) -> Expert:
        key = layer, expert
        if key not in self._views:
            name = self._file.expert_name(layer, expert)
            tensor, data, config = (
                self._file.tensors[name],
                self._file.data(name),
                self._file.config,
            )
            inner, outer = config.intermediate_size, config.hidden_size
            part = FORMATS[tensor.format].nbytes(inner, outer)
            self._views[key] = Expert(
                as_matrix(data[:part], tensor.format, inner, outer),
                as_matrix(data[part : 2 * part], tensor.format, inner, outer),
                as_matrix(data[2 * part :], tensor.format, outer, inner),
            )
        return self._views[key]

    def close(self) -> None:
        """Drop all views, so that the map can be closed."""
        self._views.clear()
