"""Numbers as they are: bfloat16, float16, float32 and the two 8-bit floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import ConvertError, quoted

from ..matrix import Held, Matrix
from ..stored import StoredMatrix, StoredTensor

DTYPES = ("BF16", "F16", "F32", "F8_E4M3", "F8_E5M2")


def _float8(exponent_bits: int, bias: int, has_infinity: bool) -> NDArray[np.float32]:
    """Return the values of all 256 codes of an 8-bit float."""
    codes = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent = codes >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = (codes & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
    values = np.where(exponent == 0, mantissa * 2, 1 + mantissa) * 2.0 ** (exponent - bias)
    top = exponent == (1 << exponent_bits) - 1
    if has_infinity:
        values[top] = np.where(mantissa[top] == 0, np.inf, np.nan)
    else:
        values[codes & 0x7F == 0x7F] = np.nan
    signed: NDArray[np.float32] = np.where(codes < 128, values, -values).astype(np.float32)
    return signed


# As ml_dtypes' float8_e4m3fn (no infinity) and float8_e5m2 have them.
E4M3, E5M2 = _float8(4, 7, has_infinity=False), _float8(5, 15, has_infinity=True)
FLOAT8_VALUES = {"F8_E4M3": E4M3, "F8_E5M2": E5M2}


@dataclass(frozen=True)
class PlainMatrix(StoredMatrix):
    """A stored tensor as it is; implements `matrix.Matrix`."""

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start..stop."""
        if self.stored.strides is None:
            rows = self.stored.read_rows(start, stop)
        else:
            rows = self._held.get(last=stop == self.stored.rows)[start:stop]
            rows = np.ascontiguousarray(rows)
        table = FLOAT8_VALUES.get(self.stored.dtype)
        return rows if table is None else table[rows]

    @cached_property
    def _held(self) -> Held[NDArray[Any]]:
        """All rows of a tensor with strides."""
        shape = (self.stored.rows, *self.stored.shape[1:][-1:])
        return Held(lambda: self.stored.read().reshape(shape))


def assemble(parts: dict[str, StoredTensor], settings: Mapping[str, Any]) -> dict[str, Matrix]:
    """Take every part as it is."""
    found: dict[str, Matrix] = {name: PlainMatrix(part) for name, part in parts.items()}
    parts.clear()
    return found


def refuse_other_dtypes(source: str, matrix: Matrix) -> None:
    """Raise ConvertError for a part that is no matrix of floating-point numbers."""
    if isinstance(matrix, PlainMatrix) and matrix.encoding not in DTYPES:
        raise ConvertError(
            f"tensor {quoted(source)}: expected dtype {' or '.join(DTYPES[:4])}, found "
            f"{quoted(matrix.encoding)}. Convert a checkpoint whose quantization config.json "
            f'tells, or one that is not quantized. Shard "{matrix.path}".'
        )
