"""The key-value cache: what attention remembers of earlier positions, one layout for all layers.

Position p lies in slot p % capacity. Without a sliding window the capacity is the context; with one
it is just enough for the window and one batch, and old positions are overwritten (a rolling cache).
Keys have 16 positions side by side, values have head dimensions side by side; see
`kernels.attention`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig

BLOCK = 64  # attention walks blocks of 64 positions; slots of one block must not wrap around
FORMATS = {"f16": np.float16, "f32": np.float32}
UNLIMITED = 1 << 30  # the window of a model without one, in positions


def capacity(config: ModelConfig, context: int, batch: int) -> int:
    """Return how many positions the cache must hold."""
    needed = context
    if config.sliding_window is not None:
        needed = min(context, config.sliding_window + batch + BLOCK)
    return -(-needed // BLOCK) * BLOCK


def nbytes(config: ModelConfig, context: int, batch: int, kv: str) -> int:
    """Return the bytes that the cache takes once it is full."""
    width = -(-config.head_dim // 32) * 32
    per_position = config.num_hidden_layers * config.num_key_value_heads * (config.head_dim + width)
    return capacity(config, context, batch) * per_position * np.dtype(FORMATS[kv]).itemsize


class KVCache:
    """Keys and values of every layer; memory is touched only as far as positions fill."""

    def __init__(self, config: ModelConfig, context: int, batch: int, kv: str) -> None:
        self.context, self.position = context, 0
        self.capacity = capacity(config, context, batch)
        self.window = config.sliding_window or UNLIMITED
        layers, heads, head_dim = (
            config.num_hidden_layers,
            config.num_key_value_heads,
            config.head_dim,
        )
        width = -(-head_dim // 32) * 32
        self._type = FORMATS[kv]
        # Zeros, not garbage: attention multiplies unused slots by 0, and 0 x NaN would be NaN.
        self._keys = np.zeros((layers, heads, self.capacity // 16, head_dim, 16), self._type)
        self._values = np.zeros((layers, heads, self.capacity, width), self._type)
        self._heads, self._head_dim = heads, head_dim

    @property
    def nbytes(self) -> int:
        """Bytes reserved; resident only as far as it is filled."""
        return self._keys.nbytes + self._values.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self.position = 0

    def store(self, layer: int, k: NDArray[np.float32], v: NDArray[np.float32]) -> None:
        """Keep k and v (n, >= kv_heads * head_dim) of a layer's next n positions."""
        n, size = len(k), self._heads * self._head_dim
        slots = np.arange(self.position, self.position + n) % self.capacity
        self._keys[layer][:, slots // 16, :, slots % 16] = k[:, :size].reshape(
            n, self._heads, self._head_dim
        )
        self._values[layer][:, slots, : self._head_dim] = (
            v[:, :size].reshape(n, self._heads, self._head_dim).transpose(1, 0, 2)
        )

    def advance(self, n: int) -> None:
        """Move on by n positions, after all layers have stored them."""
        self.position += n

    def layer(self, layer: int) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        """Return a layer's keys and values as the kernels read them: float16 as uint16."""
        keys, values = self._keys[layer], self._values[layer]
        if self._type is np.float16:
            return keys.view(np.uint16), values.view(np.uint16)
        return keys, values
