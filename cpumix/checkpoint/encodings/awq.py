"""The quantization of AutoAWQ, version "gemm": 4 bits, transposed, columns of a word out of order.

MODULE.qweight  int32 (columns, rows / 8): nibble i of a word has row 8 * word + ORDER[i]
MODULE.qzeros   int32 (groups, rows / 8): the same
MODULE.scales   float16 (groups, rows)

    weight[row, column] = (code - zero[group, row]) * scale[group, row]

The norms before such a module have its activation scales folded in: they are not those of the model
that was quantized, and right as they are.
Source: https://github.com/casper-hansen/AutoAWQ, awq/modules/linear/gemm.py, awq/utils.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..matrix import Coded, Held, Matrix, coded
from ..stored import StoredTensor
from .parts import Quantized, are_floats, collect, expect, read_floats, unpack

_NIBBLE_OF_ROW = np.array([0, 4, 1, 5, 2, 6, 3, 7])


class _Loaded(NamedTuple):
    """The parts of a matrix in memory."""

    words: NDArray[np.int32]
    """(columns, rows / 8)."""
    zeros: NDArray[np.float32]
    """(rows, groups)."""
    scales: NDArray[np.float32]
    """(rows, groups)."""


@dataclass(frozen=True)
class AwqMatrix(Quantized):
    """A transposed matrix of 4 bits with a scale and a zero for each group of columns."""

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start..stop."""
        loaded = self._held.get(last=stop == self.shape[0])
        groups = loaded.scales.shape[1]
        rows = self._codes(loaded, start, stop).astype(np.float32)
        rows = rows.reshape(stop - start, groups, self.shape[1] // groups)
        rows -= loaded.zeros[start:stop, :, None]
        rows *= loaded.scales[start:stop, :, None]
        return rows.reshape(stop - start, self.shape[1])

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return rows start..stop as codes less zeros."""
        loaded = self._held.get(last=stop == self.shape[0])
        rows = self._codes(loaded, start, stop).view(np.int8)
        zeros = loaded.zeros[start:stop].astype(np.int8)
        rows = rows - zeros.repeat(self.shape[1] // zeros.shape[1], axis=1)
        return coded(rows, loaded.scales[start:stop])

    def _codes(self, loaded: _Loaded, start: int, stop: int) -> NDArray[np.uint8]:
        """Return codes (stop - start, columns)."""
        first, last = start // 8, -(-stop // 8)
        codes = _in_order(loaded.words[:, first:last])[:, start - 8 * first : stop - 8 * first]
        return np.ascontiguousarray(codes.T)

    @cached_property
    def _held(self) -> Held[_Loaded]:
        return Held(self._load)

    def _load(self) -> _Loaded:
        zeros = _in_order(self.parts["qzeros"].read())
        return _Loaded(
            self.parts["qweight"].read(),
            np.ascontiguousarray(zeros.T).astype(np.float32),
            np.ascontiguousarray(read_floats(self.parts["scales"]).T),
        )


def _in_order(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return the codes (n, 8 * words) of words (n, words) in the order of the rows."""
    nibbles = unpack(words, 4).reshape(len(words), -1, 8)
    return nibbles[..., _NIBBLE_OF_ROW].reshape(len(words), -1)


def assemble(stored: dict[str, StoredTensor], settings: Mapping[str, Any]) -> dict[str, Matrix]:
    """Take every module that has a qweight."""
    version = str(settings.get("version", "gemm")).lower()
    bits = settings.get("bits", settings.get("w_bit", 4))
    found: dict[str, Matrix] = {}
    for module, parts in collect(stored, "qweight", ["qzeros", "scales"]):
        expect(module, parts, (version, bits) == ("gemm", 4), "4 bits in AWQ's version gemm")
        qweight, qzeros, scales = parts.values()
        columns, words = qweight.shape if len(qweight.shape) == 2 else (0, 0)
        groups = scales.shape[0] if scales.shape else 0
        fits = (
            qweight.dtype == qzeros.dtype == "I32"
            and min(groups, columns, words) > 0
            and columns % groups == 0
            and qzeros.shape == (groups, words)
            and scales.shape == (groups, 8 * words)
            and are_floats(scales)
        )
        expect(module, parts, fits, "qweight, qzeros and scales of AWQ in 4 bits")
        found[module + ".weight"] = AwqMatrix(module, parts, (8 * words, columns), "AWQ 4 bits")
    return found
