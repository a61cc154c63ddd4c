"""The quantization of GPTQ, as AutoGPTQ, GPTQModel and optimum write it: transposed.

MODULE.qweight  int32 (columns * bits / 32, rows): codes of consecutive columns, lowest bits first
MODULE.qzeros   int32 (groups, rows * bits / 32): the zero of each group, consecutive rows
MODULE.scales   float16 (groups, rows)
MODULE.g_idx    int32 (columns,): the group of each column; absent: column // group_size

    weight[row, column] = scale[group, row] * (code - zero[group, row])

Format "gptq" stores zero - 1, modulo 2^bits; "gptq_v2" the zero itself. Many files say "gptq" and
are version 2: with symmetric quantization the zero is 2^(bits - 1), so there the file itself tells.
Source: https://github.com/ModelCloud/GPTQModel, gptqmodel/nn_modules/qlinear and utils/model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.tiles import BLOCK

from ..matrix import Matrix
from ..stored import StoredTensor
from .columns_first import ColumnsFirst, Loaded, runs
from .parts import are_floats, collect, expect, read_floats, unpack

_FORMATS = (None, "gptq", "gptq_v2")


@dataclass(frozen=True)
class GptqMatrix(ColumnsFirst):
    """A transposed matrix with a scale and a zero for each group of columns."""

    bits: int
    version: int
    """1: zeros are stored less one."""
    symmetric: bool

    def unpack_band(
        self, words: NDArray[np.int32], start: int, stop: int, band: slice
    ) -> NDArray[np.uint8]:
        """Return the codes of rows start..stop in some columns."""
        first, last = band.start * self.bits // 32, band.stop * self.bits // 32
        return unpack(words[first:last, start:stop].T, self.bits)

    def code_values(self) -> tuple[int, ...] | None:
        """Return all codes less the zero, if there is one zero only and groups are runs."""
        zeros = np.unique(self._read_zeros())
        groups, count = self._read_groups(), self.parts["scales"].shape[0]
        columns = self.shape[1]
        if len(zeros) != 1 or self.bits > 4 or columns % count or columns // count % BLOCK:
            return None
        if (groups != runs(columns, count)).any():
            return None
        return tuple(range(-int(zeros[0]), (1 << self.bits) - int(zeros[0])))

    def _read_zeros(self) -> NDArray[np.uint8]:
        """Return the zeros (groups, rows) that are meant."""
        zeros = unpack(self.parts["qzeros"].read(), self.bits)
        half, version = 1 << self.bits - 1, self.version
        if self.symmetric and (zeros == half).all():
            version = 2
        elif self.symmetric and (zeros == half - 1).all():
            version = 1
        if version == 1:
            zeros = zeros + np.uint8(1) & np.uint8((1 << self.bits) - 1)
        return zeros

    def _read_groups(self) -> NDArray[np.int64]:
        """Return the group of each column."""
        count, columns = self.parts["scales"].shape[0], self.shape[1]
        if "g_idx" not in self.parts:
            return runs(columns, count)
        groups = self.parts["g_idx"].read().astype(np.int64)
        inside = groups.size == 0 or (groups.min() >= 0 and groups.max() < count)
        expect(self.name, self.parts, bool(inside), f"groups 0 to {count - 1} in g_idx")
        return groups

    def load(self) -> Loaded:
        """Read all parts."""
        return Loaded(
            self.parts["qweight"].read(),
            np.ascontiguousarray(self._read_zeros().T, np.int8 if self.bits < 8 else np.int16),
            np.ascontiguousarray(read_floats(self.parts["scales"]).T),
            self._read_groups(),
        )


def assemble(stored: dict[str, StoredTensor], settings: Mapping[str, Any]) -> dict[str, Matrix]:
    """Take every module that has a qweight."""
    found: dict[str, Matrix] = {}
    for module, parts in collect(stored, "qweight", ["qzeros", "scales"], ["g_idx"]):
        found[module + ".weight"] = _matrix(module, parts, settings)
    return found


def _matrix(module: str, parts: dict[str, StoredTensor], settings: Mapping[str, Any]) -> Matrix:
    bits = settings.get("bits")
    formats = [settings.get(key) for key in ("checkpoint_format", "format")]
    expect(
        module,
        parts,
        type(bits) is int and bits in (2, 3, 4, 8) and all(kind in _FORMATS for kind in formats),
        "2, 3, 4 or 8 bits in the format gptq or gptq_v2",
    )
    assert isinstance(bits, int)
    qweight, qzeros, scales, g_idx = (
        parts.get(p) for p in ("qweight", "qzeros", "scales", "g_idx")
    )
    assert qweight is not None and qzeros is not None and scales is not None
    words, rows = qweight.shape if len(qweight.shape) == 2 else (0, 0)
    groups = scales.shape[0] if scales.shape else 0
    columns = words * 32 // bits
    fits = (
        qweight.dtype == qzeros.dtype == "I32"
        and words * 32 == columns * bits > 0
        and scales.shape == (groups, rows)
        and qzeros.shape == (groups, rows * bits // 32)
        and rows * bits % 32 == 0
        and groups > 0
        and are_floats(scales)
        and (g_idx is None or (g_idx.shape == (columns,) and g_idx.dtype in ("I32", "I64")))
        and (g_idx is not None or columns % groups == 0)
    )
    expect(module, parts, fits, f"qweight, qzeros, scales and g_idx of GPTQ in {bits} bits")
    version = 2 if "gptq_v2" in formats else 1
    symmetric = settings.get("sym") is not False
    return GptqMatrix(module, parts, (rows, columns), f"GPTQ {bits} bits", bits, version, symmetric)
