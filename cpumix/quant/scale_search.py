"""The scale of a block of weights with the least squared error, among a few candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .tiles import BLOCK

Values = NDArray[np.float32]
# Below this magnitude every float16 scale is 0, and 1 / peak might overflow.
SMALLEST_PEAK = np.float32(2.0**-60)


def search_scale(
    x: Values, targets: Values, nearest: Callable[[Values], Values]
) -> NDArray[np.float16]:
    """Return the float16 scale of each block x (..., 32); see `search`.

    `targets` are what the block's largest weight may map to; `nearest` rounds weights, divided by
    a scale, to values that the format has.
    """
    return search(x, [(target, nearest) for target in targets])[0].astype(np.float16)


def search(
    x: Values, tries: Sequence[tuple[float, Callable[[Values], Values]]]
) -> tuple[Values, NDArray[np.int64]]:
    """Return the scale of each block x (..., 32), and which try found it.

    A try is a target, which the block's largest weight maps to, and how weights are then rounded.
    For each: round, take the least-squares scale for these values, keep the candidate that explains
    most of the block's energy. Sums run over the columns in order, so that the kernel's equal them
    bit for bit.
    """
    index = np.abs(x).argmax(-1)[..., None]
    peak = np.take_along_axis(x, index, -1)[..., 0]
    usable = np.abs(peak) > SMALLEST_PEAK
    best = np.full(peak.shape, -1, np.float32)
    scale = np.zeros_like(peak)
    found = np.zeros(peak.shape, np.int64)
    for i, (target, nearest) in enumerate(tries):
        ratio = np.divide(np.float32(target), peak, out=np.zeros_like(peak), where=usable)
        value = nearest(x * ratio[..., None])
        dot, norm = np.zeros_like(peak), np.zeros_like(peak)
        for column in range(BLOCK):
            dot = dot + x[..., column] * value[..., column]
            norm = norm + value[..., column] * value[..., column]
        candidate = np.divide(dot, norm, out=np.zeros_like(dot), where=norm > 0)
        energy = dot * candidate
        better = energy > best
        best = np.where(better, energy, best)
        scale = np.where(better, candidate, scale)
        found = np.where(better, i, found)
    return scale, found
