"""What the backend's operations take: weight matrices, matrix products, a residual, a KV cache."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.quant import FORMATS

from .rows import Rows, address_of

ITEM_QUERIES = 8  # neighbouring queries that attention takes together


@dataclass(eq=False)
class TiledMatrix:
    """A weight matrix as it lies in the file: tiles u8 of a format, see `QuantFormat.shape`."""

    format: str
    tiles: NDArray[np.uint8]
    book: NDArray[np.int8] | None = None
    """The values of its codes; None for the format's own, or if it has none."""

    def __post_init__(self) -> None:
        """Look up once what every product asks for."""
        self.address = address_of(self.tiles)
        self.definition = FORMATS[self.format]
        if self.book is None:
            self.book = self.definition.book
        self.books = (self.book,) if self.definition.own_books else ()
        """The code book as a further argument of the definition's functions, if there is one."""
        self.takes_codes = self.definition.split is not None
        """Whether products read the rows quantized to 8 bits."""
        self.blocks = self.definition.blocks(self.tiles)
        """How many blocks of 32 columns it has."""


@dataclass(eq=False, slots=True)
class Matmul:
    """out[:rows] = x[first : first + rows] @ weight.T.

    With a `second` matrix: silu(x @ weight.T) * (x @ second.T). A backend keeps its own `layout` of
    the product here, made when it first runs.
    """

    weight: TiledMatrix
    x: Rows
    first: int
    rows: int
    out: NDArray[np.float32]
    second: TiledMatrix | None = None
    layout: Any = None


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


class Placement(NamedTuple):
    """Where the rows of a batch lie in the KV cache, the same in every layer."""

    slots: NDArray[np.int64]
    """(T,): the slot of each row's key and value."""
    tables: NDArray[np.int32]
    """Block tables of the batch's sequences, one after the other: blocks of KV_BLOCK slots."""
    items: NDArray[np.int64]
    """(items, 4): neighbouring queries of one sequence: the first one's row and position, how many
    there are (at most ITEM_QUERIES), and where in `tables` their sequence's table begins."""


class KVView(NamedTuple):
    """A layer's keys and values, as a batch sees them. Kernels take it as it is.

    Shapes: keys (kv_heads, capacity / 16, head_dim, 16), values (kv_heads, capacity, width) f32, or
    f16 as u16, or i8 with scales (kv_heads, 2, capacity) f16 as u16: the keys', then the values';
    width = head_dim rounded up to 32; capacity a multiple of KV_BLOCK | slots, tables, items as in
    `Placement`. (It is flat because numba's parallel loops take no tuples in tuples.)
    """

    keys: NDArray[Any]
    values: NDArray[Any]
    scales: NDArray[np.uint16]
    slots: NDArray[np.int64]
    tables: NDArray[np.int32]
    items: NDArray[np.int64]
    window: int
    """A query at position p sees positions p - window + 1 .. p."""
    scale: float
    group: int
    """Query heads that share one key-value head."""
