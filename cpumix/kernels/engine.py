"""What the model calls: every operation of the forward pass, on this process's level and threads.

Two classes with the same methods: `SimdEngine`, and `GenericEngine` for processors without a known
level, which also runs with the JIT switched off. `create` picks one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..quant import bf16
from . import plain
from .isa import active
from .jit import set_threads
from .rows import Rows, aligned_zeros

Floats = NDArray[np.float32]


class Matrix(NamedTuple):
    """A weight matrix as it lies in the model file: tiles (tiles, blocks, tile_bytes) u8 of the named format."""

    format: str
    tiles: NDArray[np.uint8]

    @property
    def takes_codes(self) -> bool:
        """Whether products want the rows quantized to 8 bits."""
        return self.format != "bf16"


class Product(NamedTuple):
    """out[:count] = x[first : first + count] times weight; or silu of that, times x times `second`."""

    weight: Matrix
    x: Rows
    first: int
    count: int
    out: Floats
    second: Matrix | None = None


class Attention(NamedTuple):
    """What attention needs to know besides queries and cache."""

    position: int
    window: int
    scale: float
    group: int
    """Query heads that share one key-value head."""


class Engine(Protocol):
    """The operations of the forward pass; `count` is how many rows of a buffer are in use."""

    threads: int

    def norm(self, x: Rows, weight: Floats, eps: float, count: int, out: Rows) -> None:
        """RMSNorm of each row."""

    def quantize(self, x: Rows, count: int) -> None:
        """Fill x's codes from its values."""

    def multiply(self, products: Sequence[Product]) -> None:
        """Run products, in one parallel region; rows whose matrix wants codes must be quantized."""

    def rotate(self, x: Rows, heads: int, cos: Floats, sin: Floats, count: int) -> None:
        """Rotary position embedding, in place."""

    def attend(
        self,
        q: Rows,
        count: int,
        keys: NDArray[np.generic],
        values: NDArray[np.generic],
        a: Attention,
        out: Rows,
    ) -> None:
        """Attention of `count` queries over the cache; see `attention.attend` for the layout."""

    def route(
        self,
        x: Rows,
        router: Floats,
        experts: int,
        count: int,
        chosen: NDArray[np.int32],
        share: Floats,
    ) -> None:
        """Choose each row's experts and their weights."""

    def combine(
        self, x: Rows, outputs: Rows, places: NDArray[np.int64], share: Floats, count: int
    ) -> None:
        """Add the experts' weighted outputs to the stream."""

    def accumulate(self, x: Rows, update: Rows, count: int) -> None:
        """Add an update to the stream."""


class _SharedEngine:
    """The operations that are the same at every level."""

    def __init__(self, threads: int) -> None:
        self.threads = set_threads(threads)

    def rotate(self, x: Rows, heads: int, cos: Floats, sin: Floats, count: int) -> None:
        plain.rotate(x.values, heads, cos, sin, count)

    def combine(
        self, x: Rows, outputs: Rows, places: NDArray[np.int64], share: Floats, count: int
    ) -> None:
        plain.combine(x.values[:, : x.columns], outputs.values, places, share, count)

    def accumulate(self, x: Rows, update: Rows, count: int) -> None:
        plain.accumulate(x.values[:, : x.columns], update.values, count)


class SimdEngine(_SharedEngine):
    """The operations on SIMD kernels."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        from . import attention, products, rowwise, simd_amx

        self._attention, self._products, self._rowwise = attention, products, rowwise
        if active().name == "amx":
            simd_amx.request_permission()
        self._counter = np.zeros(1, np.int64)
        self._scratch = aligned_zeros((self.threads, products.SCRATCH_BYTES), np.uint8)

    def norm(self, x: Rows, weight: Floats, eps: float, count: int, out: Rows) -> None:
        self._rowwise.norm(x.values, weight, eps, x.columns, count, out.values)

    def quantize(self, x: Rows, count: int) -> None:
        self._rowwise.quantize_rows(x.values, count, x.blocks, x.codes, x.scale, x.start)

    def multiply(self, products: Sequence[Product]) -> None:
        jobs, items = self._products.job_table(products)
        self._counter[0] = 0
        self._products.multiply(jobs, items, self._counter, self._scratch)

    def attend(
        self,
        q: Rows,
        count: int,
        keys: NDArray[np.generic],
        values: NDArray[np.generic],
        a: Attention,
        out: Rows,
    ) -> None:
        needed = self._attention.scratch_bytes(a.group, values.shape[2])
        if self._scratch.shape[1] < needed:
            self._scratch = aligned_zeros((self.threads, needed), np.uint8)
        self._counter[0] = 0
        self._attention.attend(
            q.values[:count],
            keys,
            values,
            a.position,
            a.window,
            a.scale,
            a.group,
            out.values,
            self._counter,
            self._scratch,
        )

    def route(
        self,
        x: Rows,
        router: Floats,
        experts: int,
        count: int,
        chosen: NDArray[np.int32],
        share: Floats,
    ) -> None:
        self._rowwise.route(x.values, router, experts, count, chosen, share)


class GenericEngine(_SharedEngine):
    """The operations on plain loops."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        from . import generic

        self._generic = generic

    def norm(self, x: Rows, weight: Floats, eps: float, count: int, out: Rows) -> None:
        self._generic.norm(x.values, weight, eps, x.columns, count, out.values)

    def quantize(self, x: Rows, count: int) -> None:
        self._generic.quantize_rows(x.values, count, x.blocks, x.codes, x.scale, x.start)

    def multiply(self, products: Sequence[Product]) -> None:
        for p in products:
            self._one(p.weight, p, p.out)
            if p.second is not None:
                other = np.empty_like(p.out[: p.count])
                self._one(p.second, p, other)
                columns = 16 * p.weight.tiles.shape[0]
                self._generic.silu_multiply(p.out, other, p.count, columns, p.out)

    def _one(self, weight: Matrix, p: Product, out: Floats) -> None:
        rows = slice(p.first, p.first + p.count)
        tiles, blocks, _ = weight.tiles.shape
        if weight.takes_codes:
            scales = (
                np.ascontiguousarray(weight.tiles[..., -32:]).view(np.float16).astype(np.float32)
            )
            self._generic.multiply_int(
                weight.tiles, scales, p.x.codes[rows], p.x.scale[rows], p.count, out
            )
        else:
            wide = bf16.dequantize(weight.tiles, 16 * tiles, 32 * blocks)
            self._generic.multiply_float(wide, p.x.values[rows], p.count, out)

    def attend(
        self,
        q: Rows,
        count: int,
        keys: NDArray[np.generic],
        values: NDArray[np.generic],
        a: Attention,
        out: Rows,
    ) -> None:
        wide = [
            c.view(np.float16).astype(np.float32) if c.dtype == np.uint16 else c
            for c in (keys, values)
        ]
        self._generic.attend(
            q.values[:count], *wide, a.position, a.window, a.scale, a.group, out.values
        )

    def route(
        self,
        x: Rows,
        router: Floats,
        experts: int,
        count: int,
        chosen: NDArray[np.int32],
        share: Floats,
    ) -> None:
        self._generic.route(x.values, router, experts, count, chosen, share)


def create(threads: int) -> Engine:
    """Return the engine of this process's level, on `threads` threads at most."""
    return GenericEngine(threads) if active().name == "generic" else SimdEngine(threads)
