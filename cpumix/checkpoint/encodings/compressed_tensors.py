"""The quantization of compressed-tensors (llm-compressor), and of float8 with scales.

pack-quantized    MODULE.weight_packed int32 (rows, words): codes of consecutive columns, a stream
                  of bits, lowest first, each stored + 2^(bits - 1)
                  MODULE.weight_shape int64 (2,): rows, columns
                  MODULE.weight_zero_point int32, if any: packed likewise along the rows
                  MODULE.weight_g_idx int32 (columns,), if any: the group of each column
int-, float- and naive-quantized   MODULE.weight int8 or float8 (rows, columns)
nvfp4-pack-quantized   MODULE.weight_packed uint8 (rows, columns / 2), the low nibble first
                  MODULE.weight_global_scale float32 (1,): divides the scales
all               MODULE.weight_scale (a, b): for rows / a times columns / b weights each

    weight = (code - zero) * scale

Float8 checkpoints of others have the same under MODULE.weight_scale_inv. Scales of activations are
of no matter here. Which form a module has, and how many bits, its parts tell.
Source: https://github.com/vllm-project/compressed-tensors, src/compressed_tensors/compressors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.tiles import BLOCK

from ..matrix import Coded, Held, Matrix, are_halves, coded
from ..stored import StoredTensor
from .mlx import FP4
from .parts import Quantized, are_floats, collect, expect, read_floats, unpack
from .plain import FLOAT8_VALUES

_OF_ACTIVATIONS = ("input_scale", "input_zero_point", "input_global_scale", "output_scale")
_OF_CACHE = ("k_scale", "v_scale", "q_scale", "output_scale")
_SCALES = ("weight_scale", "weight_scale_inv")
_BITS = (2, 4, 8, 3, 5, 6, 7)  # the usual ones first, since few columns leave a choice


@dataclass(frozen=True)
class _Scales:
    """Scales and zeros in memory: (a, b), for equal shares of rows and columns, or by group."""

    scale: NDArray[np.float32]
    zero: NDArray[np.float32] | None
    groups: NDArray[np.int64] | None
    block: tuple[int, int]
    """Rows and columns that share a scale."""

    def of_rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return which row of scales each of rows start..stop has."""
        return np.arange(start, stop) // self.block[0]

    def apply(self, rows: NDArray[np.float32], start: int) -> None:
        """Turn codes (n, columns), rows `start` on of a matrix, to weights in place."""
        of_row, columns = self.of_rows(start, start + len(rows)), rows.shape[1]
        for numbers, operate in ((self.zero, np.subtract), (self.scale, np.multiply)):
            if numbers is not None:
                factors = numbers[of_row]
                if self.groups is not None:
                    operate(rows, factors.take(self.groups, axis=1), out=rows)
                    continue
                width = self.block[1]
                whole = columns // width * width
                blocks = rows[:, :whole].reshape(len(rows), -1, width)
                blocks = operate(blocks, factors[:, : blocks.shape[1], None])
                rows[:, :whole] = blocks.reshape(len(rows), whole)
                if whole < columns:
                    operate(rows[:, whole:], factors[:, -1:], out=rows[:, whole:])


@dataclass(frozen=True)
class ScaledMatrix(Quantized):
    """Codes with scales and perhaps zeros; kinds of it say what the codes are."""

    block: tuple[int, int]
    """Rows and columns that share a scale."""

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start..stop."""
        scales = self._held.get(last=stop == self.shape[0])
        rows = self._codes(start, stop)
        scales.apply(rows, start)
        return rows

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return rows start..stop as codes less zeros, if a row has scales of its own."""
        scales = self._held.get(last=stop == self.shape[0])
        if not self.has_whole_codes or scales.groups is not None:
            return None
        of_row = scales.of_rows(start, stop)
        factors = scales.scale[of_row]
        if self.shape[1] != factors.shape[1] * self.block[1] or not are_halves(factors):
            return None
        codes = self._whole_codes(start, stop)
        if scales.zero is not None:
            zeros = scales.zero[of_row].astype(np.int16)
            codes = codes - zeros.repeat(self.shape[1] // zeros.shape[1], axis=1)
        return coded(codes, factors)

    @property
    def has_whole_codes(self) -> bool:
        """Whether codes are whole numbers."""
        return self.parts["weight"].dtype == "I8"

    def _whole_codes(self, start: int, stop: int) -> NDArray[np.int8]:
        """Return codes that are whole numbers."""
        return self.parts["weight"].read_rows(start, stop)

    def _codes(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return codes as float32: int8 or float8 ones."""
        weight = self.parts["weight"]
        codes = weight.read_rows(start, stop)
        values = FLOAT8_VALUES.get(weight.dtype)
        return codes.astype(np.float32) if values is None else values[codes]

    @cached_property
    def _held(self) -> Held[_Scales]:
        return Held(self._load)

    def _load(self) -> _Scales:
        scale = read_floats(next(self.parts[p] for p in _SCALES if p in self.parts))
        scale = scale if scale.ndim == 2 else scale.reshape(-1, 1)
        zero, groups = self.parts.get("weight_zero_point"), None
        if "weight_g_idx" in self.parts:
            groups = self.parts["weight_g_idx"].read().astype(np.int64)
            inside = groups.min() >= 0 and groups.max() < len(scale[0])
            expect(self.name, self.parts, bool(inside), "groups below those of weight_scale")
        zeros = None if zero is None else self._zeros(zero).reshape(scale.shape)
        return _Scales(scale, zeros, groups, self.block)

    def _zeros(self, part: StoredTensor) -> NDArray[np.float32]:
        return part.read().astype(np.float32)


@dataclass(frozen=True)
class PackedMatrix(ScaledMatrix):
    """Codes of a few bits in words of 32."""

    bits: int

    @property
    def has_whole_codes(self) -> bool:
        """Always."""
        return True

    def code_values(self) -> tuple[int, ...] | None:
        """Return all codes, if they are few and have no zeros taken off."""
        half = 1 << self.bits - 1
        others = {"weight_zero_point", "weight_g_idx"} & self.parts.keys()
        is_run = self.block[1] % BLOCK == 0
        return tuple(range(-half, half)) if self.bits <= 4 and not others and is_run else None

    def _codes(self, start: int, stop: int) -> NDArray[np.float32]:
        return self._whole_codes(start, stop).astype(np.float32)

    def _whole_codes(self, start: int, stop: int) -> NDArray[np.int8]:
        words = self.parts["weight_packed"].read_rows(start, stop)
        codes = unpack(words, self.bits)[:, : self.shape[1]]
        return (codes - np.uint8(1 << self.bits - 1)).view(np.int8)  # modulo 256

    def _zeros(self, part: StoredTensor) -> NDArray[np.float32]:
        if part.dtype == "I8":
            return part.read().astype(np.float32)
        codes = unpack(part.read().T, self.bits)[:, : self.shape[0]].T.astype(np.float32)
        codes -= 1 << self.bits - 1
        return codes


@dataclass(frozen=True)
class Fp4Matrix(ScaledMatrix):
    """Floats of 4 bits whose scales are float8 over one global scale."""

    @property
    def has_whole_codes(self) -> bool:
        """Never: blocks of 16 have scales of their own."""
        return False

    def _codes(self, start: int, stop: int) -> NDArray[np.float32]:
        return FP4[unpack(self.parts["weight_packed"].read_rows(start, stop), 4)]

    def _load(self) -> _Scales:
        loaded = super()._load()
        scale = loaded.scale / read_floats(self.parts["weight_global_scale"]).reshape(1, 1)
        return replace(loaded, scale=scale)


def assemble(stored: dict[str, StoredTensor], settings: Mapping[str, Any]) -> dict[str, Matrix]:
    """Take every module that has scales of weights."""
    for name in list(stored):
        if name.endswith(tuple(f".{part}" for part in (*_OF_ACTIVATIONS, *_OF_CACHE))):
            del stored[name]
    found: dict[str, Matrix] = {}
    block = _block_size(settings)
    optional = ["weight_zero_point", "weight_g_idx", "weight_shape", "weight_global_scale"]
    for marker in _SCALES:
        for module, parts in collect(stored, marker, [], ["weight", "weight_packed", *optional]):
            found[module + ".weight"] = _matrix(module, parts, parts[marker], block)
    return found


def _block_size(settings: Mapping[str, Any]) -> list[int]:
    """Return the rows and columns of blocks that the settings tell, [0, 0] if they do not."""
    groups = settings.get("config_groups")
    told = [settings.get("weight_block_size")]
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        told.append(weights.get("block_structure") if isinstance(weights, dict) else None)
    for block in told:
        if isinstance(block, list) and len(block) == 2 and all(type(n) is int for n in block):
            return block
    return [0, 0]


def _matrix(
    module: str, parts: dict[str, StoredTensor], scale: StoredTensor, block: list[int]
) -> Matrix:
    given, packed = parts.pop("weight_shape", None), parts.get("weight_packed")
    share = parts.get("weight_global_scale")
    if packed is None:
        weight = parts.get("weight")
        fits = weight is not None and (weight.dtype == "I8" or weight.dtype in FLOAT8_VALUES)
        expect(module, parts, fits, "weight of int8 or float8")
        assert weight is not None
        label = "scaled int8" if weight.dtype == "I8" else "scaled float8"
        return _checked(ScaledMatrix(module, parts, weight.shape, label, (1, 1)), scale, block)
    rows, words = packed.shape if len(packed.shape) == 2 else (0, 0)
    if packed.dtype == "U8":
        fits = share is not None and prod(share.shape) == 1 and are_floats(share)
        expect(module, parts, fits, "weight_global_scale of one number")
        matrix = Fp4Matrix(module, parts, (rows, 2 * words), "nvfp4", (1, 1))
        return _checked(matrix, scale, block)
    is_small = given is not None and given.shape == (2,) and given.dtype in ("I64", "I32")
    shape: tuple[int, ...] = (0, 0)
    if given is not None and is_small:
        shape = tuple(given.read().tolist())
    bits = next((b for b in _BITS if words == -(-shape[1] * b // 32)), None)
    fits = bits is not None and shape[0] == rows > 0
    expect(module, parts, fits, "weight_packed as weight_shape")
    assert bits is not None
    label = f"compressed-tensors {bits} bits"
    return _checked(PackedMatrix(module, parts, shape, label, (1, 1), bits), scale, block)


def _checked(matrix: ScaledMatrix, scale: StoredTensor, block: list[int]) -> Matrix:
    """Return the matrix if scales, zeros and groups are those of its shape."""
    rows, columns = matrix.shape if len(matrix.shape) == 2 else (0, 0)
    spread = scale.shape if len(scale.shape) == 2 else (prod(scale.shape), 1)
    zero, groups = (matrix.parts.get(p) for p in ("weight_zero_point", "weight_g_idx"))
    zero_fits = zero is None or (zero.dtype == "I8" and prod(zero.shape) == prod(spread))
    if zero is not None and isinstance(matrix, PackedMatrix) and zero.dtype == "I32":
        zero_fits = zero.shape == (-(-rows * matrix.bits // 32), spread[1]) and spread[0] == rows
    found = _share(rows, spread[0], block[0]), _share(columns, spread[1], block[1])
    fits = (
        are_floats(scale)
        and min(found) > 0
        and zero_fits
        and (groups is None or (groups.shape == (columns,) and groups.dtype in ("I32", "I64")))
    )
    expect(matrix.name, matrix.parts, fits, "scales, zeros and groups of the matrix's shape")
    return replace(matrix, block=found)


def _share(size: int, scales: int, told: int) -> int:
    """Return how many rows or columns have one scale, 0 if so many scales cannot be.

    Blocks that do not divide a size are as large as the settings tell, or a power of two.
    """
    if not 0 < scales <= size:
        return 0
    if told > 0 and -(-size // told) == scales:
        return told
    if size % scales == 0:
        return size // scales
    powers = (1 << power for power in range(size.bit_length() + 1))
    return next((power for power in powers if -(-size // power) == scales), 0)
