"""A tensor of a GGUF file as a matrix, whose rows are turned into float32 as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...matrix import Coded, Matrix, coded
from ...stored import NUMPY_DTYPES, StoredMatrix, StoredTensor
from .bits import Floats
from .blocks import CODE_VALUES, CODES
from .types import GGML_TYPES, dequantize

_TYPES = {kind.name: kind for kind in GGML_TYPES.values()}


@dataclass(frozen=True)
class GgmlMatrix(StoredMatrix):
    """Blocks along the rows of a stored tensor; implements `matrix.Matrix`."""

    def read_rows(self, start: int, stop: int) -> Floats:
        """Return rows start..stop as float32."""
        return dequantize(self.stored.read_rows(start, stop), _TYPES[self.encoding])

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return rows start..stop as codes, if the type has a scale for 32 codes and no more."""
        kind = _TYPES[self.encoding]
        if self.encoding not in CODES or len(self.shape) < 2:
            return None
        data = self.stored.read_rows(start, stop).reshape(-1, kind.nbytes)
        codes, scales = CODES[self.encoding](data)
        return coded(codes.reshape(stop - start, -1), scales.reshape(stop - start, -1))

    def code_values(self) -> tuple[int, ...] | None:
        """Return the values of a type of 4 bits."""
        values = CODE_VALUES.get(self.encoding)
        return None if values is None else tuple(np.unique(values).tolist())


def assemble(parts: dict[str, StoredTensor], settings: Mapping[str, Any]) -> dict[str, Matrix]:
    """Take the tensors that are in blocks."""
    blocks = [n for n, part in parts.items() if part.dtype in _TYPES.keys() - NUMPY_DTYPES.keys()]
    return {name: GgmlMatrix(parts.pop(name)) for name in blocks}
