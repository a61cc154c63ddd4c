"""The door to the encoders: rows of weights in, tiles out, at this process's level."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant import FORMATS, bf16

from .compile.isa import active

INFINITE = 0x7F800000  # a magnitude's float32 bits: from here on it is infinity or NaN


def largest_bits(wide: NDArray[np.float32]) -> int:
    """Return the largest magnitude as float32 bits: `INFINITE` or more unless all are finite."""
    return int((np.ascontiguousarray(wide).view(np.uint32) & 0x7FFFFFFF).max())


def encode(rows: NDArray[Any], format_name: str) -> tuple[NDArray[np.uint8], int]:
    """Encode weights (n, k), float32 or bfloat16 as uint16, as tiles of the named format.

    Returns the tiles, see `QuantFormat.shape`, and the largest magnitude's float32 bits:
    `INFINITE` or more if a weight is infinite or NaN, and then the tiles mean nothing.
    """
    target = FORMATS[format_name]
    if active().name == "generic":
        wide = bf16.to_float32(rows) if rows.dtype == np.uint16 else rows
        most = largest_bits(wide)
        if most >= INFINITE:
            return np.zeros(target.shape(*wide.shape), np.uint8), most
        return target.quantize(wide), most
    from .codecs import CODECS
    from .codecs.encoding import encoder
    from .codecs.row_scaled import RowScaledCodec, panel_encoder

    out = np.empty(target.shape(*rows.shape), np.uint8)
    largest = np.zeros(len(out), np.int32)
    codec = CODECS[format_name]
    kernel = panel_encoder(codec) if isinstance(codec, RowScaledCodec) else encoder(codec)
    kernel(rows, out, largest)
    return out, int(largest.max())
