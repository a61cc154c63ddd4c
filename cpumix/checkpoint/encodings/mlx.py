"""The quantization of MLX: codes, scales and biases along each row.

MODULE.weight    uint32 (..., rows, columns * bits / 32): a little-endian stream of codes
MODULE.scales    (..., rows, columns / group): float16, bfloat16 or float32; uint8 in the mx modes
MODULE.biases    the same, in the affine mode only

    affine  weight = scale * code + bias; 1 to 6 or 8 bits, any group
    mxfp4   weight = scale * FP4[code], scale 2^(s - 127), groups of 32
    nvfp4   weight = scale * FP4[code], scale E4M3, groups of 16
    mxfp8   weight = scale * E4M3[code], scale 2^(s - 127), groups of 32

config.json has under "quantization" the group_size, bits and mode of all, and may have others for a
module under its name. A module is quantized if it has scales, whatever the config says.
Source: https://github.com/ml-explore/mlx, mlx/ops.cpp and mlx/backend/cpu/quantized.cpp.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.tiles import BLOCK

from ..matrix import Coded, Matrix, coded
from ..stored import StoredTensor
from .parts import Quantized, are_floats, collect, expect, to_float32, unpack
from .plain import E4M3

_HALF_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP4 = np.array([*_HALF_FP4, *(-value for value in _HALF_FP4)], np.float32)
E8M0 = np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.float32(np.nan))
_TWICE_FP4 = (2 * FP4).astype(np.int8)
_AFFINE_BITS = (1, 2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class _Mode:
    """A mode without biases: what codes and scales stand for."""

    bits: int
    group: int
    values: NDArray[np.float32]
    scales: NDArray[np.float32]


_MODES = {
    "mxfp4": _Mode(4, 32, FP4, E8M0),
    "nvfp4": _Mode(4, 16, FP4, E4M3),
    "mxfp8": _Mode(8, 32, E4M3, E8M0),
}


@dataclass(frozen=True)
class AffineMatrix(Quantized):
    """Codes times a scale plus a bias for each group of a row."""

    bits: int
    group: int

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start..stop."""
        codes = unpack(self.parts["weight"].read_rows(start, stop), self.bits)
        scales, biases = (
            to_float32(self.parts[p].read_rows(start, stop), self.parts[p].dtype)[..., None]
            for p in ("scales", "biases")
        )
        rows = codes.reshape(stop - start, -1, self.group).astype(np.float32)
        rows *= scales
        rows += biases
        return rows.reshape(stop - start, self.shape[-1])


@dataclass(frozen=True)
class FloatMatrix(Quantized):
    """Small floats times a scale for each group of a row."""

    mode: _Mode

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start..stop."""
        codes = unpack(self.parts["weight"].read_rows(start, stop), self.mode.bits)
        scales = self.mode.scales[self.parts["scales"].read_rows(start, stop)]
        rows = self.mode.values[codes.reshape(stop - start, -1, self.mode.group)]
        rows *= scales[..., None]
        return rows.reshape(stop - start, self.shape[-1])

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return rows start..stop as twice the FP4 numbers times half the scales."""
        if self.mode.values is not FP4:
            return None
        codes = unpack(self.parts["weight"].read_rows(start, stop), self.mode.bits)
        scales = self.mode.scales[self.parts["scales"].read_rows(start, stop)]
        return coded(_TWICE_FP4[codes], scales / 2)

    def code_values(self) -> tuple[int, ...] | None:
        """Return twice the FP4 numbers, if those are the codes."""
        is_mxfp4 = self.mode.values is FP4 and self.mode.group == BLOCK
        return tuple(np.unique(_TWICE_FP4).tolist()) if is_mxfp4 else None


def assemble(stored: dict[str, StoredTensor], settings: Mapping[str, Any]) -> dict[str, Matrix]:
    """Take every module that has scales."""
    found: dict[str, Matrix] = {}
    for module, parts in collect(stored, "scales", ["weight"], ["biases"]):
        found[module + ".weight"] = _matrix(module, parts, settings)
    return found


def _matrix(module: str, parts: dict[str, StoredTensor], settings: Mapping[str, Any]) -> Matrix:
    own = settings.get(module)
    chosen = {**settings, **own} if isinstance(own, dict) else settings
    mode, bits, group = (chosen.get(key, 0) for key in ("mode", "bits", "group_size"))
    mode = mode if isinstance(mode, str) or mode == 0 else "unknown"
    if mode in _MODES:
        bits, group = _MODES[mode].bits, _MODES[mode].group
    expect(
        module,
        parts,
        mode in (0, "affine", *_MODES)
        and _is_one_of(bits, _AFFINE_BITS)
        and _is_one_of(group, range(8, 4096, 8)),
        "a known mode, bits and group size of MLX",
    )
    weight, scales = parts["weight"], parts["scales"]
    *rows, groups = scales.shape or (0,)
    shape = (*rows, groups * group)
    fits = (
        len(shape) > 1
        and prod(shape) > 0
        and weight.dtype == "U32"
        and weight.strides is scales.strides is None
        and shape[-1] * bits % 32 == 0
        and weight.shape == (*rows, shape[-1] * bits // 32)
    )
    label = f"MLX {bits} bits" if mode in (0, "affine") else f"MLX {mode}"
    expected = f"weight, scales and biases of {label} in groups of {group}"
    if mode in _MODES:
        expect(module, parts, fits and scales.dtype == "U8" and "biases" not in parts, expected)
        return FloatMatrix(module, parts, shape, label, _MODES[mode])
    biases = parts.get("biases")
    fits = fits and biases is not None and biases.shape == scales.shape
    expect(module, parts, fits and are_floats(scales, biases), expected)
    return AffineMatrix(module, parts, shape, label, bits, group)


def _is_one_of(value: Any, numbers: Collection[int]) -> bool:
    # By type(), because JSON may also have true or 4.0 there.
    return type(value) is int and value in numbers
