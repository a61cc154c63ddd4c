"""What kernels work on, as the forward pass names it: weights, products, a cache to attend to."""

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
        """Note what every product asks for."""
        self.address = address_of(self.tiles)
        self.takes_codes = self.format != "bf16"
        """Whether products want the rows quantized to 8 bits."""


class Product(NamedTuple):
    """out[:rows] = x[first : first + rows] times weight.

    With a `second` matrix: silu of that, times x times `second`.
    """

    weight: Matrix
    x: Rows
    first: int
    rows: int
    out: NDArray[np.float32]
    second: Matrix | None = None


class Work:
    """Products that are run together; again and again, if need be: an engine lays them out once.

    If the rows are `fresh`, only their values are there: they are quantized first, if a matrix
    wants codes.
    """

    def __init__(self, products: Iterable[Product], fresh: bool = False) -> None:
        self.products, self.fresh = list(products), fresh
        self.laid_out: Any = None


class Addition(NamedTuple):
    """What comes to each row of the residual stream: some rows of `outputs`, weighted."""

    outputs: Rows
    places: NDArray[np.int64]
    """(>= rows, k): which."""
    share: NDArray[np.float32]
    """(>= rows, k)."""


class Past(NamedTuple):
    """What queries at `position`, `position` + 1, ... attend to; layouts in `attention.attend`."""

    keys: NDArray[Any]
    values: NDArray[Any]
    scales: NDArray[np.uint16]
    position: int
    window: int
    scale: float
    group: int
    """Query heads that share one key-value head."""
