"""The quantization of bitsandbytes: 4 bits in blocks of the flattened matrix, or 8 bits by row.

4 bits (nf4, fp4)
    MODULE.weight            bytes of any type, rows * columns / 2: the first code in the high half
    MODULE.weight.absmax     float32, or uint8 if it is quantized itself: one a block
    MODULE.weight.quant_map  float32 (16,): the values of the codes
    MODULE.weight.quant_state.bitsandbytes__nf4   bytes of JSON: shape, blocksize and more
    MODULE.weight.nested_absmax, .nested_quant_map   of a quantized absmax

    weight = quant_map[code] * absmax[block]
    absmax = nested_quant_map[code] * nested_absmax[block of 256] + nested_offset

8 bits
    MODULE.weight int8 (rows, columns), MODULE.SCB float32 (rows,), MODULE.weight_format
    weight = code * SCB * (1 / 127)

Source: https://github.com/bitsandbytes-foundation/bitsandbytes, bitsandbytes/functional.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..matrix import Held, Matrix
from ..stored import NUMPY_DTYPES, StoredTensor
from .parts import Quantized, collect, expect, read_floats

_KINDS = ("nf4", "fp4")
_MOST_STATE = 4096  # bytes of JSON
_BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class BlockMatrix(Quantized):
    """4 bits a weight, in blocks of the flattened matrix."""

    block: int
    nested_block: int
    nested_offset: float

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start..stop."""
        pairs, absmax = self._held.get(last=stop == self.shape[0])
        first, last = start * self.shape[1], stop * self.shape[1]
        weight, size = self.parts["weight"], NUMPY_DTYPES[self.parts["weight"].dtype].itemsize
        # Whole blocks, which are whole bytes, and whole numbers of any type that holds them.
        begin = first // self.block
        end = min(-(-last // self.block), len(absmax))
        numbers = prod(weight.shape)
        packed = weight.read_flat(
            begin * self.block // 2 // size, min(end * self.block // 2 // size, numbers)
        ).view(np.uint8)
        flat = pairs.take(packed).view(np.float32)
        whole = len(flat) // self.block
        flat[: whole * self.block].reshape(whole, -1)[:] *= absmax[begin : begin + whole, None]
        flat[whole * self.block :] *= absmax[end - 1]
        at = first - begin * self.block
        return flat[at : at + last - first].reshape(stop - start, self.shape[1])

    @cached_property
    def _held(self) -> Held[tuple[NDArray[np.uint64], NDArray[np.float32]]]:
        """The two values of each byte, as one number of 64 bits, and every block's scale."""
        return Held(lambda: (self._read_pairs(), self._read_absmax()))

    def _read_pairs(self) -> NDArray[np.uint64]:
        values = read_floats(self.parts["weight.quant_map"])
        high, low = np.divmod(np.arange(256), 16)
        return np.stack([values[high], values[low]], axis=1).view(np.uint64).reshape(256)

    def _read_absmax(self) -> NDArray[np.float32]:
        absmax = self.parts["weight.absmax"]
        if absmax.dtype == "F32":
            return read_floats(absmax)
        values, scales = (
            read_floats(self.parts[f"weight.nested_{part}"]) for part in ("quant_map", "absmax")
        )
        codes = absmax.read()
        scale_of = np.repeat(scales, self.nested_block)[: len(codes)]
        absolute: NDArray[np.float32] = values[codes] * scale_of + np.float32(self.nested_offset)
        return absolute


@dataclass(frozen=True)
class RowMatrix(Quantized):
    """8 bits a weight, one scale a row."""

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start..stop."""
        rows = self.parts["weight"].read_rows(start, stop).astype(np.float32)
        rows *= self.parts["SCB"].read_rows(start, stop)[:, None]
        rows *= np.float32(1 / 127)  # in this order, as bitsandbytes rounds it
        return rows


def assemble(stored: dict[str, StoredTensor], settings: Mapping[str, Any]) -> dict[str, Matrix]:
    """Take every module that has a quant_state or an SCB."""
    found: dict[str, Matrix] = {}
    for kind in _KINDS:
        state = f"weight.quant_state.bitsandbytes__{kind}"
        needed = ["weight", "weight.absmax", "weight.quant_map"]
        optional = ["weight.nested_absmax", "weight.nested_quant_map"]
        for module, parts in collect(stored, state, needed, optional):
            found[module + ".weight"] = _four_bits(module, parts, state, kind)
    for module, parts in collect(stored, "SCB", ["weight"], ["weight_format"]):
        found[module + ".weight"] = _eight_bits(module, parts)
    return found


def _four_bits(module: str, parts: dict[str, StoredTensor], state: str, kind: str) -> Matrix:
    described = parts.pop(state)
    fields = {}
    if described.dtype == "U8" and described.nbytes <= _MOST_STATE:
        try:
            fields = json.loads(described.read().tobytes())
        except (ValueError, RecursionError):
            fields = {}
    block = fields.get("blocksize") if isinstance(fields, dict) else None
    shape = fields.get("shape") if isinstance(fields, dict) else None
    is_shape = isinstance(shape, list) and all(type(n) is int and 0 < n < 1 << 31 for n in shape)
    expect(module, parts, _is_block(block) and is_shape and len(shape or []) == 2, "a quant_state")
    assert isinstance(shape, list) and isinstance(block, int)
    count = shape[0] * shape[1]
    weight, absmax, quant_map = (parts[p] for p in ("weight", "weight.absmax", "weight.quant_map"))
    blocks = -(-count // block)
    fits = (
        weight.nbytes * 2 == count
        and weight.dtype in NUMPY_DTYPES
        and weight.strides is None
        and (quant_map.dtype, quant_map.shape) == ("F32", (16,))
        and absmax.shape == (blocks,)
    )
    nested_block, offset = fields.get("nested_blocksize", 256), fields.get("nested_offset", 0.0)
    fits = fits and type(offset) in (int, float) and abs(offset) < 1e30
    if absmax.dtype != "F32":
        nested, nested_map = (
            parts.get(f"weight.nested_{part}") for part in ("absmax", "quant_map")
        )
        fits = (
            fits
            and absmax.dtype == "U8"
            and _is_block(nested_block)
            and nested is not None
            and (nested.dtype, nested.shape) == ("F32", (-(-blocks // nested_block),))
            and nested_map is not None
            and (nested_map.dtype, nested_map.shape) == ("F32", (256,))
        )
    expect(module, parts, fits, f"weight, absmax and quant_map of {kind} for {tuple(shape)}")
    return BlockMatrix(
        module, parts, tuple(shape), f"bitsandbytes {kind}", block, nested_block, float(offset)
    )


def _is_block(value: Any) -> bool:
    return type(value) is int and value in _BLOCKS


def _eight_bits(module: str, parts: dict[str, StoredTensor]) -> Matrix:
    layout = parts.pop("weight_format", None)
    is_plain = layout is None or (layout.nbytes == 1 and layout.read().reshape(-1)[0] == 0)
    expect(module, parts, is_plain, "8 bits in rows, weight_format 0")
    weight, scales = parts["weight"], parts["SCB"]
    fits = (
        weight.dtype == "I8"
        and len(weight.shape) == 2
        and (scales.dtype, scales.shape) == ("F32", weight.shape[:1])
    )
    expect(module, parts, fits, "weight and SCB of bitsandbytes in 8 bits")
    return RowMatrix(module, parts, weight.shape, "bitsandbytes int8")
