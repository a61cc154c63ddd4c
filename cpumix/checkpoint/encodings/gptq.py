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
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.tiles import BLOCK

from ..matrix import Coded, Held, Matrix, coded
from ..stored import StoredTensor
from .parts import Quantized, are_floats, collect, expect, read_floats, unpack

BAND = 256  # columns, a multiple of the 32 that any number of bits has in whole words
_FORMATS = (None, "gptq", "gptq_v2")


class _Loaded(NamedTuple):
    """The parts of a matrix in memory."""

    words: NDArray[np.int32]
    """(columns * bits / 32, rows)."""
    zeros: NDArray[Any]
    """(rows, groups): of a type that codes less zeros fit into."""
    scales: NDArray[np.float32]
    """(rows, groups)."""
    groups: NDArray[np.int64]
    """(columns,): the group of each column."""


@dataclass(frozen=True)
class GptqMatrix(Quantized):
    """A transposed matrix with a scale and a zero for each group of columns."""

    bits: int
    version: int
    """1: zeros are stored less one."""
    symmetric: bool

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start..stop."""
        loaded, columns = self._held.get(last=stop == self.shape[0]), self.shape[1]
        rows = np.empty((stop - start, columns), np.float32)
        for first in range(0, columns, BAND):  # few enough that a band stays in the cache
            band = slice(first, min(first + BAND, columns))
            words = loaded.words[first * self.bits // 32 : band.stop * self.bits // 32, start:stop]
            codes: NDArray[Any] = unpack(words.T, self.bits).astype(loaded.zeros.dtype, copy=False)
            codes -= loaded.zeros[start:stop].take(loaded.groups[band], axis=1)
            rows[:, band] = codes
            rows[:, band] *= loaded.scales[start:stop].take(loaded.groups[band], axis=1)
        return rows

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return rows start..stop as codes less zeros, if groups are runs of columns."""
        loaded, columns = self._held.get(last=stop == self.shape[0]), self.shape[1]
        groups = loaded.scales.shape[1]
        if columns % groups or (loaded.groups != np.arange(columns) // (columns // groups)).any():
            return None
        words = loaded.words[:, start:stop].T
        rows: NDArray[Any] = unpack(words, self.bits).astype(loaded.zeros.dtype)
        rows -= loaded.zeros[start:stop].repeat(columns // groups, axis=1)
        return coded(rows, loaded.scales[start:stop])

    def code_values(self) -> tuple[int, ...] | None:
        """Return all codes less the zero, if there is one zero only and groups are runs."""
        zeros = np.unique(self._read_zeros())
        groups, count = self._read_groups(), self.parts["scales"].shape[0]
        columns = self.shape[1]
        if len(zeros) != 1 or self.bits > 4 or columns % count or columns // count % BLOCK:
            return None
        if (groups != np.arange(columns) // (columns // count)).any():
            return None
        return tuple(range(-int(zeros[0]), (1 << self.bits) - int(zeros[0])))

    @cached_property
    def _held(self) -> Held[_Loaded]:
        return Held(self._load)

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
            return np.arange(columns) // (columns // count)
        groups = self.parts["g_idx"].read().astype(np.int64)
        inside = groups.size == 0 or (groups.min() >= 0 and groups.max() < count)
        expect(self.name, self.parts, bool(inside), f"groups 0 to {count - 1} in g_idx")
        return groups

    def _load(self) -> _Loaded:
        return _Loaded(
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
