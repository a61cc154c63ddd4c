"""The matrices and vectors of a model file, also those inside experts, read some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpumix.config import WHOLE_EXPERTS, TensorSpec
from cpumix.quant import FLOAT32, FORMATS, nbytes
from cpumix.quant.precision import parts_of
from cpumix.quant.tiles import TILE_ROWS

from .reader import MappedTensor, ModelFile

_SCALES_BYTES = 2 * TILE_ROWS  # a float16 for each row, at the end of a tile
_SCALED = ("q8", "q6", "q4")  # formats whose tiles end so


@dataclass(frozen=True)
class FileMatrix:
    """One of a model's tensors in an open file: a view of its map, which reads nothing yet."""

    spec: TensorSpec
    """Of this matrix; w1, w3 and w2 are three."""
    tensor: str
    """Name of the file's tensor that it lies in."""
    format: str
    data: NDArray[np.uint8]
    book: tuple[int, ...] | None = None
    """As in `TensorEntry`."""

    @property
    def columns(self) -> int:
        """Length of a row; a vector is one row."""
        return self.spec.shape[-1]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.spec.shape[0] if len(self.spec.shape) == 2 else 1

    @property
    def tiles(self) -> NDArray[np.uint8]:
        """All tiles, see `QuantFormat.shape`; float32 has none."""
        return self.data.reshape(FORMATS[self.format].shape(self.rows, self.columns))

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start..stop as float32; `start` is a multiple of 16."""
        assert start % TILE_ROWS == 0, start
        if self.format == FLOAT32:
            values: NDArray[np.float32] = self.data.view("<f4").reshape(self.rows, -1)
            return values[start:stop]
        some = self.tiles[start // TILE_ROWS : -(-stop // TILE_ROWS)]
        books = () if self.book is None else (np.array(self.book, np.int8),)
        return FORMATS[self.format].dequantize(some, stop - start, self.columns, *books)

    def is_finite(self) -> bool:
        """Whether every number is one: of scaled formats, every scale."""
        if self.format in _SCALED:
            scales = np.ascontiguousarray(self.tiles[..., -_SCALES_BYTES:]).view("<f2")
            return bool(np.isfinite(scales).all())
        if self.format != FLOAT32 and (scaling := FORMATS[self.format].scaling):
            return scaling.is_finite(self.tiles)
        if self.format == "bf16":
            exponents = self.data.view("<u2") & np.uint16(0x7F80)
            return bool((exponents != 0x7F80).all())
        return bool(np.isfinite(self.read(0, self.rows)).all())


def matrices_of(file: ModelFile, tensor: MappedTensor) -> Iterator[FileMatrix]:
    """Yield what a tensor of the file holds: itself, or the three matrices of an expert."""
    data, spec = file.data(tensor.name), tensor.spec
    if spec.role not in WHOLE_EXPERTS:
        yield FileMatrix(spec, tensor.name, tensor.format, data, tensor.book)
        return
    assert spec.layer is not None and spec.expert is not None
    start = 0
    parts = file.config.expert_tensors(spec.layer, spec.expert)
    for part, kind in zip(parts, parts_of(tensor.format), strict=True):
        stop = start + nbytes(kind, part.shape)
        yield FileMatrix(part, tensor.name, kind, data[start:stop], tensor.book)
        start = stop
