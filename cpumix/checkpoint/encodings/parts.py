"""What all quantized encodings share: finding the parts of each tensor, and reading numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import ConvertError, quoted

from ..stored import StoredTensor
from .plain import FLOAT8_VALUES

Parts = Mapping[str, StoredTensor]


@dataclass(frozen=True)
class Quantized:
    """A matrix made of several parts; kinds of it implement `matrix.Matrix`."""

    name: str
    """Of the module that it belongs to, in the checkpoint; errors say it."""
    parts: Parts
    """By the last part of their names: "qweight", "scales"."""
    shape: tuple[int, ...]
    encoding: str

    @property
    def nbytes(self) -> int:
        """Of all parts."""
        return sum(part.nbytes for part in self.parts.values())

    @property
    def paths(self) -> frozenset[Path]:
        """The files of all parts."""
        return frozenset(part.path for part in self.parts.values())

    @property
    def path(self) -> Path:
        """The file of the largest part."""
        return max(self.parts.values(), key=lambda part: part.nbytes).path


def collect(
    stored: dict[str, StoredTensor],
    marker: str,
    needed: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> Iterator[tuple[str, dict[str, StoredTensor]]]:
    """Take the parts of each module that has one called MODULE.marker out of `stored`.

    Yields the module's name and its parts by suffix. Raises ConvertError if a needed one is absent.
    """
    for name in [name for name in stored if name.endswith("." + marker)]:
        module = name.removesuffix("." + marker)
        parts = {marker: stored.pop(name)}
        for suffix in (*needed, *optional):
            part = stored.pop(f"{module}.{suffix}", None)
            if part is not None:
                parts[suffix] = part
            elif suffix in needed:
                raise ConvertError(
                    f"tensor {quoted(name)}: expected {suffix} beside it, found none. Download all "
                    f'shards again. Shard "{parts[marker].path}".'
                )
        yield module, parts


def expect(module: str, parts: Parts, fits: bool, expected: str) -> None:
    """Raise ConvertError unless the parts of a module fit together."""
    if not fits:
        found = ", ".join(f"{n} {p.shape} of {p.dtype}" for n, p in parts.items())
        path = next(iter(parts.values())).path
        raise ConvertError(
            f"module {quoted(module)}: expected {expected}, found {found}. Check the quantization "
            f'settings in its config, or download it again. Shard "{path}".'
        )


def are_floats(*parts: StoredTensor | None) -> bool:
    """Whether parts hold floating-point numbers that `to_float32` widens; absent ones do."""
    return all(p is None or p.dtype in ("F16", "BF16", "F32", *FLOAT8_VALUES) for p in parts)


def to_float32(numbers: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Widen what `StoredTensor` reads of a floating-point type."""
    wide: NDArray[np.float32]
    if dtype == "BF16":
        wide = (numbers.astype(np.uint32) << 16).view(np.float32)
    elif dtype in FLOAT8_VALUES:
        wide = FLOAT8_VALUES[dtype][numbers]
    else:
        wide = numbers.astype(np.float32, copy=False)
    return wide


def read_floats(part: StoredTensor) -> NDArray[np.float32]:
    """Return all numbers of a floating-point part."""
    return to_float32(part.read(), part.dtype)


def unpack(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return the codes of `bits` bits in the last dimension, as a little-endian stream of bits.

    Codes of 3, 5, 6 and 7 bits cross the borders of words: of these a multiple of 32 is returned,
    the last ones made of zeros if a row has fewer bits.
    """
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets
    *rows, count = octets.shape
    if bits in (1, 2, 4):
        codes = np.empty((*rows, count, 8 // bits), np.uint8)
        for i in range(8 // bits):
            np.right_shift(octets, i * bits, out=codes[..., i])
        codes &= (1 << bits) - 1
    else:
        if count % (4 * bits):
            whole = np.zeros((*rows, -(-count // (4 * bits)) * 4 * bits), np.uint8)
            whole[..., :count] = octets
            octets, count = whole, whole.shape[-1]
        numbers = octets.view(np.uint32).reshape(*rows, count // (4 * bits), bits)
        codes = np.empty((*numbers.shape[:-1], 32), np.uint8)
        for i in range(32):
            word, shift = divmod(i * bits, 32)
            code = numbers[..., word] >> np.uint32(shift)
            if shift + bits > 32:
                code |= numbers[..., word + 1] << np.uint32(32 - shift)
            np.bitwise_and(code, (1 << bits) - 1, out=codes[..., i], casting="unsafe")
    return codes.reshape(*rows, count * 8 // bits)
