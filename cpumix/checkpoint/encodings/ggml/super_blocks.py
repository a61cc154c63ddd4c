"""ggml's types with blocks of 256: groups with small scales, and one float16 over all of them."""

from __future__ import annotations

import numpy as np

from .bits import Bytes, Floats, half, scaled, shifted, unpack
from .blocks import IQ4_NL_VALUES


def q2_k(blocks: Bytes) -> Floats:
    """16 bytes (low nibble scale, high nibble minimum), 64 bytes of codes, d, dmin."""
    small = blocks[:, :16]
    scales = half(blocks, 80) * (small & 15)
    return shifted(scales, unpack(blocks[:, 16:80], 2, 32), half(blocks, 82) * (small >> 4))


def q3_k(blocks: Bytes) -> Floats:
    """32 bytes of high bits, 64 of low bits, 12 of scales + 32 of 6 bits, d.

    A high bit of 0 means 4 less. Of the scales come first the low 4 bits, then the high 2.
    """
    low, high = unpack(blocks[:, 96:104], 4, 8), unpack(blocks[:, 104:108], 2, 4)
    small = (low | (high << np.uint8(4))).view(np.int8) - np.int8(32)
    codes = unpack(blocks[:, 32:96], 2, 32) | (unpack(blocks[:, :32], 1, 32) << np.uint8(2))
    return scaled(half(blocks, 108) * small, codes.view(np.int8) - np.int8(4))


def q4_k(blocks: Bytes) -> Floats:
    """d, dmin, 12 bytes of scales and minimums, 128 bytes of codes."""
    return shifted(*_scales_and_codes(blocks, unpack(blocks[:, 16:], 4, 32)))


def q5_k(blocks: Bytes) -> Floats:
    """d, dmin, 12 bytes of scales and minimums, 32 bytes of high bits, 128 of low bits."""
    high = unpack(blocks[:, 16:48], 1, 32)
    codes = unpack(blocks[:, 48:], 4, 32) | (high << np.uint8(4))
    return shifted(*_scales_and_codes(blocks, codes))


def q6_k(blocks: Bytes) -> Floats:
    """128 bytes of low nibbles, 64 of high bits, 16 signed scales, d; codes + 32."""
    low, high = unpack(blocks[:, :128], 4, 64), unpack(blocks[:, 128:192], 2, 32)
    codes = (low | (high << np.uint8(4))).view(np.int8) - np.int8(32)
    return scaled(half(blocks, 208) * blocks[:, 192:208].view(np.int8), codes)


def iq4_xs(blocks: Bytes) -> Floats:
    """d, 2 bytes of high bits of the scales + 32, 4 of their low bits, 128 of table indices."""
    low, high = unpack(blocks[:, 4:8], 4, 1), unpack(blocks[:, 2:4], 2, 1)
    small = (low | (high << np.uint8(4))).view(np.int8) - np.int8(32)
    return scaled(half(blocks, 0) * small, IQ4_NL_VALUES[unpack(blocks[:, 8:], 4, 16)])


def tq1_0(blocks: Bytes) -> Floats:
    """48 bytes of five ternary digits each, 4 of four, d; the first digit is the highest.

    A byte holds digits / 3^5 as a fraction of 256, rounded up: times 3^i, its upper part modulo 3
    is digit i.
    """
    parts = []
    for start, stop, width, digits in ((0, 32, 32, 5), (32, 48, 16, 5), (48, 52, 4, 4)):
        runs = blocks[:, start:stop].reshape(len(blocks), -1, 1, width)
        powers = np.uint8(3) ** np.arange(digits, dtype=np.uint8)[:, None]
        parts.append((runs * powers).reshape(len(blocks), -1))
    fractions = np.concatenate(parts, axis=1).astype(np.uint16)
    return half(blocks, 52) * (((fractions * 3) >> 8).astype(np.int8) - np.int8(1))


def tq2_0(blocks: Bytes) -> Floats:
    """64 bytes of codes + 1 of 2 bits, d."""
    return half(blocks, 64) * (unpack(blocks[:, :64], 2, 32).view(np.int8) - np.int8(1))


def _scales_and_codes(blocks: Bytes, codes: Bytes) -> tuple[Floats, Bytes, Floats]:
    """Return scales (n, 8), the codes, and minimums (n, 8) of Q4_K and Q5_K.

    Twelve bytes hold 8 scales and 8 minimums of 6 bits. The first four bytes have scales 0-3 in
    their low 6 bits, the next four minimums 0-3. The last four have the low 4 bits of scales 4-7
    and, above them, of minimums 4-7, whose high bits are the top 2 of the first eight bytes.
    """
    first, second, last = (blocks[:, start : start + 4] for start in (4, 8, 12))
    scales = np.concatenate([first & 63, (last & 15) | ((first >> 2) & 48)], axis=1)
    minimums = np.concatenate([second & 63, (last >> 4) | ((second >> 2) & 48)], axis=1)
    return half(blocks, 0) * scales, codes, half(blocks, 2) * minimums
