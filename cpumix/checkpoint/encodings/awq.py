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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..matrix import Matrix
from ..stored import StoredTensor
from .columns_first import ColumnsFirst, Loaded, runs
from .parts import are_floats, collect, expect, read_floats, unpack

_NIBBLE_OF_ROW = np.array([0, 4, 1, 5, 2, 6, 3, 7])


@dataclass(frozen=True)
class AwqMatrix(ColumnsFirst):
    """A transposed matrix of 4 bits with a scale and a zero for each group of columns."""

    def unpack_band(
        self, words: NDArray[np.int32], start: int, stop: int, band: slice
    ) -> NDArray[np.uint8]:
        """Return the codes of rows start..stop in some columns."""
        first, last = start // 8, -(-stop // 8)
        turned = np.ascontiguousarray(words[band, first:last].T).view(np.uint32)
        codes = np.empty((last - first, 8, turned.shape[1]), np.uint8)
        for row, nibble in enumerate(_NIBBLE_OF_ROW):
            code = turned >> np.uint32(4 * nibble)
            np.bitwise_and(code, 15, out=codes[:, row], casting="unsafe")
        return codes.reshape(-1, turned.shape[1])[start - 8 * first : stop - 8 * first]

    def load(self) -> Loaded:
        """Read all parts."""
        zeros = unpack(self.parts["qzeros"].read(), 4)
        zeros = zeros.reshape(len(zeros), -1, 8)[..., _NIBBLE_OF_ROW].reshape(len(zeros), -1)
        return Loaded(
            self.parts["qweight"].read(),
            np.ascontiguousarray(zeros.T, np.int8),
            np.ascontiguousarray(read_floats(self.parts["scales"]).T),
            runs(self.shape[1], len(zeros)),
        )


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
