"""What some families do to the projections of attention: add biases, norm queries and keys.

In NumPy: this is a thousandth of a layer's work. Each row comes out the same whatever other rows
there are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def add_bias(x: Floats, bias: Floats) -> None:
    """Add a bias (n,) to the first n columns of each row of x, in place."""
    x[:, : len(bias)] += bias


def norm(x: Floats, columns: int, gain: Floats, eps: float) -> None:
    """RMS-norm each stretch of len(gain) numbers in the first columns of each row, in place.

    The gain is that of one head, or of all heads together.
    """
    heads = np.ascontiguousarray(x[:, :columns]).reshape(len(x), -1, len(gain))
    mean = np.square(heads).mean(axis=-1, keepdims=True)
    heads *= 1 / np.sqrt(mean + np.float32(eps))
    heads *= gain
    x[:, :columns] = heads.reshape(len(x), columns)
