"""ggml's types with blocks of 32: a float16 scale and 32 codes, in some also a minimum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .bits import Bytes, Floats, half, unpack, words

Codes = NDArray[np.int8]
# The values of IQ4_NL, and those of MXFP4 (E2M1) doubled, so that all are whole.
IQ4_NL_VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)
MXFP4_VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
Q4_0_VALUES = np.arange(-8, 8, dtype=np.int8)


def q4_0(blocks: Bytes) -> Floats:
    """Float16 scale, 16 bytes of codes + 8."""
    return half(blocks, 0) * q4_0_codes(blocks)


def q4_1(blocks: Bytes) -> Floats:
    """Float16 scale and minimum, 16 bytes of codes."""
    return half(blocks, 0) * unpack(blocks[:, 4:], 4, 16) + half(blocks, 2)


def q5_0(blocks: Bytes) -> Floats:
    """Float16 scale, 4 bytes of high bits, 16 bytes of low bits; codes + 16."""
    return half(blocks, 0) * q5_0_codes(blocks)


def q5_1(blocks: Bytes) -> Floats:
    """Float16 scale and minimum, 4 bytes of high bits, 16 bytes of low bits."""
    return half(blocks, 0) * _five_bits(blocks[:, 4:]) + half(blocks, 2)


def q8_0(blocks: Bytes) -> Floats:
    """Float16 scale, 32 signed codes."""
    return half(blocks, 0) * q8_0_codes(blocks)


def iq4_nl(blocks: Bytes) -> Floats:
    """Float16 scale, 16 bytes of indices into a table."""
    return half(blocks, 0) * iq4_nl_codes(blocks)


def mxfp4(blocks: Bytes) -> Floats:
    """Exponent e of a scale 2^(e - 128), 16 bytes of E2M1 numbers (doubled in the table)."""
    return exponent_scales(blocks[:, 0])[:, None] * mxfp4_codes(blocks)


def exponent_scales(exponents: NDArray[np.uint8]) -> Floats:
    """Return 2^(e - 128) as float32, where the two smallest are subnormal."""
    wide = exponents.astype(np.uint32)
    bits = np.where(wide < 2, np.uint32(0x00200000) << wide, (wide - np.uint32(1)) << np.uint32(23))
    return bits.view(np.float32)


def _five_bits(part: Bytes) -> Bytes:
    """Return codes of 5 bits (n, 32) from 4 bytes of high bits and 16 of low ones."""
    high = np.unpackbits(np.ascontiguousarray(part[:, :4]), axis=1, bitorder="little")
    return unpack(part[:, 4:], 4, 16) | (high << np.uint8(4))


def float32(blocks: Bytes) -> Floats:
    """Four bytes each."""
    return words(blocks, "<f4")


def float16(blocks: Bytes) -> Floats:
    """Two bytes each."""
    return words(blocks, "<f2").astype(np.float32)


def bfloat16(blocks: Bytes) -> Floats:
    """Two bytes each: the upper half of a float32."""
    return (words(blocks, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


def q4_0_codes(blocks: Bytes) -> Codes:
    """Return -8 to 7."""
    return Q4_0_VALUES[unpack(blocks[:, 2:], 4, 16)]


def q5_0_codes(blocks: Bytes) -> Codes:
    """Return -16 to 15."""
    return _five_bits(blocks[:, 2:]).view(np.int8) - np.int8(16)


def q8_0_codes(blocks: Bytes) -> Codes:
    """Return -128 to 127."""
    return blocks[:, 2:].view(np.int8)


def iq4_nl_codes(blocks: Bytes) -> Codes:
    """Return values of the table."""
    return IQ4_NL_VALUES[unpack(blocks[:, 2:], 4, 16)]


def mxfp4_codes(blocks: Bytes) -> Codes:
    """Return values of the table, which are doubled."""
    return MXFP4_VALUES[unpack(blocks[:, 1:], 4, 16)]


def _of_half(codes: Callable[[Bytes], Codes]) -> Callable[[Bytes], tuple[Codes, Floats]]:
    return lambda blocks: (codes(blocks), half(blocks, 0))


# Types whose weights are a whole number times the scale of a block: both, of blocks (n, bytes).
CODES: dict[str, Callable[[Bytes], tuple[Codes, Floats]]] = {
    "Q4_0": _of_half(q4_0_codes),
    "Q5_0": _of_half(q5_0_codes),
    "Q8_0": _of_half(q8_0_codes),
    "IQ4_NL": _of_half(iq4_nl_codes),
    "MXFP4": lambda blocks: (mxfp4_codes(blocks), exponent_scales(blocks[:, 0])),
}
CODE_VALUES = {"Q4_0": Q4_0_VALUES, "IQ4_NL": IQ4_NL_VALUES, "MXFP4": MXFP4_VALUES}
