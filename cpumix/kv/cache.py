"""The key-value cache: what attention remembers of earlier positions, one layout for all layers.

Position p lies in slot p % capacity. Without a sliding window the capacity is the context; with one
it is just enough for the window and one batch, and old positions are overwritten (a rolling cache).
Keys have 16 positions side by side, values have head dimensions side by side; see
`kernels.attention`. At 8 bits each position of a head has a scale too; see `quant.kv`.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.quant.kv import KV_BLOCK, KV_FORMATS
from cpumix.quant.precision import REFERENCE, Precision
from cpumix.store.residency import resident_bytes

SCALED = "int8"  # the format whose positions have scales
SCALE_BYTES = 2
UNLIMITED = 1 << 30  # the window of a model without one, in positions


def find_format(kv: str, precision: Precision) -> str:
    """Return the format that `kv` asks for, beside weights of this precision.

    "auto" is "f32" for unquantized weights (who wants exact numbers wants them throughout) and
    "f16" for the others. Raises ConfigError when `kv` is neither that nor in `KV_FORMATS`.
    """
    if kv == "auto":
        return "f32" if precision.name in ("bf16", REFERENCE.name) else "f16"
    if kv not in KV_FORMATS:
        raise ConfigError(f'KV cache: expected one of {", ".join(KV_FORMATS)}, found "{kv}".')
    return kv


def capacity(config: ModelConfig, context: int, batch: int) -> int:
    """Return how many positions the cache must hold."""
    needed = context
    if config.sliding_window is not None:
        needed = min(context, config.sliding_window + batch + KV_BLOCK)
    return -(-needed // KV_BLOCK) * KV_BLOCK


def nbytes(config: ModelConfig, context: int, batch: int, kv: str) -> int:
    """Return the bytes that the cache takes once it is full."""
    width = -(-config.head_dim // 32) * 32
    per_head = (config.head_dim + width) * np.dtype(KV_FORMATS[kv]).itemsize
    if kv == SCALED:
        per_head += 2 * SCALE_BYTES
    heads = config.num_hidden_layers * config.num_key_value_heads
    return capacity(config, context, batch) * heads * per_head


class KVCache:
    """Keys and values of every layer; memory is touched only as far as positions fill."""

    def __init__(self, config: ModelConfig, context: int, batch: int, kv: str) -> None:
        self.context = context
        self.capacity = capacity(config, context, batch)
        self.window = config.sliding_window or UNLIMITED
        layers, heads, head_dim = (
            config.num_hidden_layers,
            config.num_key_value_heads,
            config.head_dim,
        )
        width = -(-head_dim // 32) * 32
        self._type = KV_FORMATS[kv]
        # Zeros, not garbage: attention multiplies unused slots by 0, and 0 x NaN would be NaN.
        self._keys = np.zeros((layers, heads, self.capacity // 16, head_dim, 16), self._type)
        self._values = np.zeros((layers, heads, self.capacity, width), self._type)
        scales = self.capacity if kv == SCALED else 0
        self._scales = np.zeros((layers, heads, 2, scales), np.float16)  # of keys, of values
        seen = [
            x.view(np.uint16) if x.dtype == np.float16 else x
            for x in (self._keys, self._values, self._scales)
        ]
        self._layers = list(zip(*seen, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes reserved; resident only as far as it is filled."""
        return self._keys.nbytes + self._values.nbytes + self._scales.nbytes

    @property
    def resident_bytes(self) -> int:
        """Bytes in memory; all of them where the system does not tell."""
        total = 0
        for array in (self._keys, self._values, self._scales):
            inside = array.ctypes.data % mmap.PAGESIZE
            known = resident_bytes(array.ctypes.data - inside, array.nbytes + inside)
            total += array.nbytes if known is None else min(known, array.nbytes)
        return total

    def share_used(self, position: int) -> float:
        """Return the share of the cache that positions before this one fill."""
        return min(position / self.capacity, 1.0)

    def layer(
        self, layer: int
    ) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.uint16]]:
        """Return a layer's keys, values and scales as the kernels read them: float16 as uint16."""
        return self._layers[layer]
