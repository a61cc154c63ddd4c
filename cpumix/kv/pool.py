"""The KV cache: a pool of blocks of 64 positions, which sequences take, share and give back.

A block holds the keys and values of all layers for its positions. Keys have 16 positions side by
side, values have head dimensions side by side; see `kernels.operands.KVView`. At 8 bits each
position of a head has a scale too; see `quant.kv`. Memory is touched only where blocks are used.

A block is free, held by one or more sequences, or cached: held by none, but kept for a sequence
that begins with the same tokens (see `prefix`). Cached blocks count as available.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.quant.kv import KV_BLOCK, KV_FORMATS
from cpumix.store.residency import resident_bytes

from .formats import SCALED, UNLIMITED


class BlockPool:
    """Keys and values of every layer in `blocks` blocks, and who holds each block."""

    def __init__(self, config: ModelConfig, blocks: int, kv: str) -> None:
        layers, heads = config.num_hidden_layers, config.num_key_value_heads
        head_dim, capacity = config.head_dim, KV_BLOCK * blocks
        width = -(-head_dim // 32) * 32
        self.kv = kv
        self.blocks, self.window = blocks, config.sliding_window or UNLIMITED
        # Zeros, not garbage: attention multiplies unused slots by 0, and 0 x NaN would be NaN.
        self._keys = np.zeros((layers, heads, capacity // 16, head_dim, 16), KV_FORMATS[kv])
        self._values = np.zeros((layers, heads, capacity, width), KV_FORMATS[kv])
        scales = capacity if kv == SCALED else 0
        self._scales = np.zeros((layers, heads, 2, scales), np.float16)  # of keys, of values
        seen = [
            x.view(np.uint16) if x.dtype == np.float16 else x
            for x in (self._keys, self._values, self._scales)
        ]
        self._layers = list(zip(*seen, strict=True))
        self._holders = np.zeros(blocks, np.int64)
        self._free = np.ones(blocks, np.bool_)
        self._used = np.zeros(blocks, np.bool_)  # blocks that hold an earlier holder's values
        self._touched = np.zeros(blocks, np.bool_)  # blocks whose memory has been written
        self.reserved = 0
        """Blocks promised to sequences that have not taken them yet."""
        self.cached = 0
        """Blocks that no sequence holds, kept by the prefix cache."""
        self.keeps: Callable[[int], bool] = lambda block: False
        """Whether to cache a block that its last holder has given back."""
        self.evict: Callable[[], int] = lambda: -1
        """Return the cached block to do without."""
        self.revive: Callable[[int], None] = lambda block: None
        """Note that a cached block is held again."""

    def layer(
        self, layer: int
    ) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.uint16]]:
        """Return a layer's keys, values and scales as the kernels read them: float16 as uint16."""
        return self._layers[layer]

    def is_finite(self, layer: int, blocks: NDArray[np.int32]) -> bool:
        """Whether these blocks hold numbers only: NaN is what a format could not hold."""
        heads, _, head_dim, _ = self._keys.shape[1:]
        keys = self._keys[layer].reshape(heads, self.blocks, -1, head_dim, 16)
        values = self._values[layer].reshape(heads, self.blocks, KV_BLOCK, -1)
        scales = self._scales[layer].reshape(heads, 2, self.blocks, -1)
        parts = keys[:, blocks], values[:, blocks], scales[:, :, blocks]
        return all(bool(np.isfinite(part).all()) for part in parts)

    @property
    def nbytes(self) -> int:
        """Bytes reserved; resident only as far as blocks are used."""
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

    @property
    def available(self) -> int:
        """Blocks that a new sequence may reserve."""
        return int(self._free.sum()) + self.cached - self.reserved

    @property
    def held(self) -> int:
        """Blocks that sequences hold."""
        return self.blocks - int(self._free.sum()) - self.cached

    @property
    def share_touched(self) -> float:
        """The share of the pool whose memory has been written."""
        return float(self._touched.mean())

    def touch(self, slots: NDArray[np.int64]) -> None:
        """Note that slots are written now."""
        self._touched[slots // KV_BLOCK] = True

    def take(self, count: int, after: int = -1) -> list[int]:
        """Hold `count` blocks that were reserved: side by side if possible, best behind `after`.

        Attention then reads one long stream for each head. Cached blocks leave as needed.
        """
        self.reserved -= count
        while int(self._free.sum()) < count:
            self.release_cached(self.evict())
        blocks = self._run(count, after)
        self._free[blocks] = False
        self._holders[blocks] = 1
        return blocks

    def _run(self, count: int, after: int) -> list[int]:
        """Choose free blocks: behind `after`, else the first run that is long enough, else any."""
        free = np.flatnonzero(self._free)
        if 0 <= after and self._free[after + 1 : after + 1 + count].sum() == count:
            return list(range(after + 1, after + 1 + count))
        starts = free[: len(free) - count + 1]
        runs = starts[free[count - 1 :] - starts == count - 1]
        if len(runs):
            return list(range(int(runs[0]), int(runs[0]) + count))
        return [int(block) for block in free[:count]]

    def hold(self, block: int) -> None:
        """Hold a block that another sequence holds too, or that is cached."""
        if self._holders[block] == 0:
            self.cached -= 1
            self.revive(block)
        self._holders[block] += 1

    def holders(self, block: int) -> int:
        """Return how many sequences hold a block."""
        return int(self._holders[block])

    def release_cached(self, block: int) -> None:
        """Free a cached block."""
        self._free[block] = True
        self.cached -= 1

    def give_back(self, block: int) -> bool:
        """Hold a block no longer; tell whether nobody does now."""
        self._holders[block] -= 1
        if self._holders[block]:
            return False
        self._used[block] = True
        if self.keeps(block):
            self.cached += 1
        else:
            self._free[block] = True
        return True

    def clear(self, block: int) -> None:
        """Make an earlier holder's values zeros, before a new one's are written between them."""
        if self._used[block]:
            slots = slice(KV_BLOCK * block, KV_BLOCK * (block + 1))
            self._values[:, :, slots] = 0
            if self._scales.shape[3]:
                self._scales[:, :, :, slots] = 0
            self._used[block] = False

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` positions of a block to a block that was cleared."""
        a, b = KV_BLOCK * source, KV_BLOCK * target
        self._touched[target] = True
        whole, rest = count // 16, count % 16
        self._keys[:, :, b // 16 : b // 16 + whole] = self._keys[:, :, a // 16 : a // 16 + whole]
        if rest:
            tiles = self._keys[:, :, b // 16 + whole], self._keys[:, :, a // 16 + whole]
            tiles[0][..., :rest] = tiles[1][..., :rest]
        self._values[:, :, b : b + count] = self._values[:, :, a : a + count]
        if self._scales.shape[3]:
            self._scales[:, :, :, b : b + count] = self._scales[:, :, :, a : a + count]

    def export(self, blocks: list[int]) -> bytes:
        """Return the keys, values and scales of some blocks, as `restore` takes them."""
        return b"".join(view[:, :, blocks].tobytes() for view in self._by_block())

    def export_bytes(self, count: int) -> int:
        """Return how many bytes `export` gives of so many blocks."""
        return self.nbytes // self.blocks * count

    def restore(self, blocks: list[int], data: bytes) -> None:
        """Fill blocks with what was exported."""
        at = 0
        for view in self._by_block():
            shape = (*view.shape[:2], len(blocks), *view.shape[3:])
            size = int(np.prod(shape))
            view[:, :, blocks] = np.frombuffer(data, view.dtype, size, at).reshape(shape)
            at += size * view.itemsize
        self._touched[blocks] = True

    def _by_block(self) -> list[NDArray[Any]]:
        """Return views of keys, values and scales whose third dimension is the block."""
        layers, heads = self._keys.shape[:2]
        keys = self._keys.reshape(layers, heads, self.blocks, -1)
        values = self._values.reshape(layers, heads, self.blocks, -1)
        parts: list[NDArray[Any]] = [keys, values]
        for i in range(2 if self._scales.size else 0):  # of keys, of values
            parts.append(self._scales[:, :, i].reshape(layers, heads, self.blocks, -1))
        return parts
