"""Half-quadratic quantization (HQQ), as transformers saves it: groups of the flattened matrix.

MODULE.W_q         the codes, packed by parts: the first half of all codes in the high nibbles of
                   the bytes, the second half in the low ones
MODULE.scale, .zero    floating point, one a group; the zero is not a whole number
MODULE.shape, .nbits, .group_size, .axis, .packing    settings, each a small tensor

    weight = (code - zero) * scale

With axis 1 the matrix is (groups, group_size), a group in each row; with axis 0 it is
(group_size, groups), a group in each column. Either way the codes are in the matrix's own order.
Source: https://github.com/dropbox/hqq, hqq/core/quantize.py and bitpack.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..matrix import Held, Matrix
from ..stored import StoredTensor
from .parts import Quantized, are_floats, collect, expect, read_floats


class _Packing(NamedTuple):
    """How codes lie in a number: `parts` parts of all codes, the first in the highest bits."""

    dtype: str
    bits: int
    parts: int


_PACKINGS = {
    "8bit_u8": _Packing("U8", 8, 1),
    "4bit_u8": _Packing("U8", 4, 2),
    "3bit_32": _Packing("I32", 3, 10),
    "2bit_u8": _Packing("U8", 2, 4),
    "1bit_u8": _Packing("U8", 1, 8),
}
_SETTINGS = ("shape", "nbits", "group_size", "axis", "packing")
# Parts that transformers saves as well and that follow from the others.
_OTHERS = tuple(
    """
    compute_dtype unpack_view_dtype view_as_float quant_scale quant_zero channel_wise optimize
    round_zero offload_meta stores_quant_config encoded_state_dict
    """.split()
)


@dataclass(frozen=True)
class HqqMatrix(Quantized):
    """Codes less a zero, times a scale, one of each for every group of the flattened matrix."""

    packing: _Packing
    axis: int
    group: int

    def read_rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return rows start..stop."""
        scales, zeros = self._held.get(last=stop == self.shape[0])
        first, last = start * self.shape[1], stop * self.shape[1]
        if self.axis == 1:  # whole groups, of which the first and the last may be wanted in part
            begin, end = first // self.group, -(-last // self.group)
            flat = self._codes(begin * self.group, end * self.group).astype(np.float32)
            groups = flat.reshape(-1, self.group)
            groups -= zeros[begin:end, None]
            groups *= scales[begin:end, None]
            flat = flat[first - begin * self.group :][: last - first]
        else:  # one number of each group after the other
            flat = self._codes(first, last).astype(np.float32)
            at = first
            while at < last:
                group = at % len(scales)
                piece = flat[at - first :][: len(scales) - group]
                piece -= zeros[group : group + len(piece)]
                piece *= scales[group : group + len(piece)]
                at += len(piece)
        return flat.reshape(stop - start, self.shape[1])

    @cached_property
    def _held(self) -> Held[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Scales and zeros of all groups."""
        parts = [self.parts[name] for name in ("scale", "zero")]
        return Held(lambda: (read_floats(parts[0]).reshape(-1), read_floats(parts[1]).reshape(-1)))

    def _codes(self, first: int, last: int) -> NDArray[Any]:
        """Return codes first..last of the flattened matrix."""
        packed = self.parts["W_q"]
        numbers, mask = prod(packed.shape), (1 << self.packing.bits) - 1
        pieces = []
        while first < last:
            part, at = divmod(first, numbers)
            stop = min(at + last - first, numbers)
            shift = (self.packing.parts - 1 - part) * self.packing.bits
            pieces.append(packed.read_flat(at, stop) >> shift & mask)
            first += stop - at
        return np.concatenate(pieces)


def assemble(stored: dict[str, StoredTensor], settings: Mapping[str, Any]) -> dict[str, Matrix]:
    """Take every module that has a W_q."""
    found: dict[str, Matrix] = {}
    for module, parts in collect(stored, "W_q", ["scale", "zero", *_SETTINGS], _OTHERS):
        for name in _OTHERS:
            parts.pop(name, None)
        found[module + ".weight"] = _matrix(module, parts)
    return found


def _matrix(module: str, parts: dict[str, StoredTensor]) -> Matrix:
    own = {name: parts.pop(name) for name in _SETTINGS}
    is_small = all(part.nbytes <= 256 for part in own.values())
    expect(module, parts, is_small, "settings of HQQ of a few numbers")
    shape = tuple(own["shape"].read().reshape(-1).tolist())
    bits, group, axis = (
        next(iter(own[name].read().reshape(-1).tolist()), None)
        for name in ("nbits", "group_size", "axis")
    )
    name = own["packing"].read().tobytes().decode("ascii", "replace").strip("\0")
    packing = _PACKINGS.get(name)
    known = (
        packing is not None
        and packing.bits == bits
        and type(axis) is int
        and axis in (0, 1)
        and len(shape) == 2
        and all(type(n) is int and 0 < n < 1 << 31 for n in (*shape, group))
        and prod(shape) % group == 0
    )
    expect(module, parts, known, "a known packing, axis, shape and group size of HQQ")
    assert packing is not None and isinstance(axis, int) and isinstance(group, int)
    groups = prod(shape) // group
    lines, length = (groups, group) if axis == 1 else (group, groups)
    packed, scale, zero = parts["W_q"], parts["scale"], parts["zero"]
    # 3 bits are padded with lines to a multiple of ten.
    expected = (-(-lines // packing.parts), length)
    fits = (
        packed.dtype == packing.dtype
        and packed.shape == expected
        and packed.strides is None
        and prod(scale.shape) == prod(zero.shape) == groups
        and are_floats(scale, zero)
    )
    expect(module, parts, fits, f"W_q {expected} of {packing.dtype} and {groups} scales and zeros")
    return HqqMatrix(module, parts, shape, f"HQQ {bits} bits", packing, axis, group)
