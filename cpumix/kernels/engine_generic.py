"""The operations of the forward pass on plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..quant import bf16, heads
from . import generic
from .engine import Chosen, Engine, Floats
from .operands import Addition, Matrix, Past, Product, Work
from .rows import Rows


class GenericEngine(Engine):
    """Slow and obvious; what the SIMD kernels must agree with."""

    def norm(  # noqa: D102
        self, x: Rows, added: Addition, weight: Floats, eps: float, n: int, out: Rows
    ) -> None:
        outputs, places, share = added
        generic.norm(x.values, x.columns, outputs.values, places, share, weight, eps, n, out.values)
        self._quantize(out, 0, n)

    def _quantize(self, x: Rows, first: int, n: int) -> None:
        values, codes, scale, start = x.values, x.codes, x.scale, x.start
        generic.quantize_rows(
            values[first:], n, x.blocks, codes[first:], scale[first:], start[first:]
        )

    def multiply(self, work: Work) -> None:  # noqa: D102
        for p in work.products:
            if work.fresh and p.weight.takes_codes:
                self._quantize(p.x, p.first, p.rows)
            self._one(p.weight, p, p.out)
            if p.second is not None:
                other = np.empty_like(p.out[: p.rows])
                self._one(p.second, p, other)
                columns = 16 * p.weight.tiles.shape[0]
                generic.silu_multiply(p.out, other, p.rows, columns, p.out)

    def _one(self, weight: Matrix, p: Product, out: Floats) -> None:
        rows = slice(p.first, p.first + p.rows)
        tiles, blocks, _ = weight.tiles.shape
        if weight.takes_codes:
            tail = np.ascontiguousarray(weight.tiles[..., -32:])
            scales = tail.view(np.float16).astype(np.float32)
            codes, scale = p.x.codes[rows], p.x.scale[rows]
            generic.multiply_int(weight.tiles, scales, codes, scale, p.rows, out)
        else:
            wide = bf16.dequantize(weight.tiles, 16 * tiles, 32 * blocks)
            generic.multiply_float(wide, p.x.values[rows], p.rows, out)

    def remember(  # noqa: D102
        self, q: Rows, k: Rows, v: Rows, turn: tuple[Floats, Floats], n: int, rows: int, past: Past
    ) -> None:
        kv_heads, _, head_dim, _ = past.keys.shape
        cos, sin = turn
        generic.rotate(k.values, kv_heads, cos, sin, n)
        generic.rotate(q.values, kv_heads * past.group, cos[n - rows :], sin[n - rows :], rows)
        slots = np.arange(past.position, past.position + n) % past.values.shape[1]
        shape = n, kv_heads, head_dim
        keys: NDArray[Any]
        values: NDArray[Any]
        keys, values = (x.values[:n, : kv_heads * head_dim].reshape(shape) for x in (k, v))
        if past.keys.dtype == np.int8:
            coded = heads.quantize(keys), heads.quantize(values)
            scales = np.stack([c.scale.T for c in coded], axis=1)
            past.scales.view(np.float16)[:, :, slots] = scales
            keys, values = (c.codes for c in coded)
        as_numbers(past.keys)[:, slots // 16, :, slots % 16] = keys
        as_numbers(past.values)[:, slots, :head_dim] = values.transpose(1, 0, 2)

    def attend(self, q: Rows, n: int, past: Past, out: Rows) -> None:  # noqa: D102
        keys, values = (as_numbers(x).astype(np.float32) for x in (past.keys, past.values))
        if past.keys.dtype == np.int8:
            scales = past.scales.view(np.float16).astype(np.float32)
            keys *= scales[:, 0].reshape(len(keys), -1, 1, 16)
            values *= scales[:, 1, :, None]
        generic.attend(
            q.values[:n], keys, values, past.position, past.window, past.scale, past.group,
            out.values,
        )  # fmt: skip

    def route(  # noqa: D102
        self, x: Rows, router: Floats, experts: int, n: int, chosen: Chosen, share: Floats
    ) -> None:
        generic.route(x.values, router, experts, n, chosen, share)


def as_numbers(cache: NDArray[Any]) -> NDArray[Any]:
    """Return keys or values as what they are: kernels see float16 as uint16."""
    return cache.view(np.float16) if cache.dtype == np.uint16 else cache
