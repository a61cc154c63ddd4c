"""What the backend's operations take: weight matrices, matrix products, a residual, a KV cache."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .rows import Rows, address_of


@dataclass(eq=False)
class Matrix:
    """A weight matrix as it lies in the file: tiles (tiles, blocks, tile_bytes) u8 of a format."""

    format: str
    tiles: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Look up once what every product asks for."""
        self.address = address_of(self.tiles)
        self.takes_codes = self.format != "bf16"
        """Whether products read the rows quantized to 8 bits."""


class Matmul(NamedTuple):
    """out[:rows] = x[first : first + rows] @ weight.T.

    With a `second` matrix: silu(x @ weight.T) * (x @ second.T).
    """

    weight: Matrix
    x: Rows
    first: int
    rows: int
    out: NDArray[np.float32]
    second: Matrix | None = None


class MatmulGroup:
    """Matrix products that run in one parallel region, as often as wanted.

    With `quantize_inputs`, only the float32 values of the input rows are filled in; the backend
    quantizes them first, if a matrix of the group reads 8-bit codes. A backend keeps its own
    `layout` of the group here, made when the group first runs.
    """

    def __init__(self, matmuls: Iterable[Matmul], quantize_inputs: bool = False) -> None:
        self.matmuls, self.quantize_inputs = list(matmuls), quantize_inputs
        self.layout: Any = None


class Residual(NamedTuple):
    """Added to the residual stream: x[t] += sum over k of weights[t, k] * rows[indices[t, k]].

    Shapes: indices (>= T, k) i64 | weights (>= T, k) f32.
    """

    rows: Rows
    indices: NDArray[np.int64]
    weights: NDArray[np.float32]

    @property
    def arrays(self) -> ResidualArrays:
        """The residual as kernels take it."""
        return ResidualArrays(self.rows.values, self.indices, self.weights)


class ResidualArrays(NamedTuple):
    """A `Residual` whose rows are an array, (.., >= columns) f32."""

    rows: NDArray[np.float32]
    indices: NDArray[np.int64]
    weights: NDArray[np.float32]


class KVView(NamedTuple):
    """A layer's keys and values, as queries at `position`, `position` + 1, ... see them.

    Layouts as in `attention.attention`. Kernels take it as it is.
    """

    keys: NDArray[Any]
    values: NDArray[Any]
    scales: NDArray[np.uint16]
    position: int
    window: int
    scale: float
    group: int
    """Query heads that share one key-value head."""
