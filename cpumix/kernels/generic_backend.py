"""The operations of the forward pass on plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.kv import KV_BLOCK, to_f16
from cpumix.quant.kv import quantize as quantize_heads
from cpumix.quant.tiles import BLOCK, TILE_ROWS

from . import generic
from .backend import Backend, ExpertIds, Floats, Index, Rope
from .operands import KVView, Matmul, MatmulGroup, Residual, TiledMatrix
from .rows import Rows

TILES = 64  # that are widened at a time: 1024 rows of a matrix


class GenericBackend(Backend):
    """Slow and obvious; what the SIMD kernels must agree with."""

    def look_up(self, matrix: TiledMatrix, ids: Index) -> Floats:  # noqa: D102
        return matrix.definition.rows(matrix.tiles, ids, *matrix.books)

    def norm(  # noqa: D102
        self, x: Rows, residual: Residual, weight: Floats, eps: float, n: int, out: Rows
    ) -> None:
        generic.norm(x.values, x.columns, residual.arrays, weight, eps, n, out.values)
        self._quantize(out, 0, n)

    def _quantize(self, x: Rows, first: int, n: int) -> None:
        values, codes, scale, start = x.values, x.codes, x.scale, x.start
        generic.quantize_rows(
            values[first:], n, x.blocks, codes[first:], scale[first:], start[first:]
        )

    def multiply(self, group: MatmulGroup) -> None:  # noqa: D102
        for p in group.matmuls:
            if group.quantize_inputs and p.weight.takes_codes:
                self._quantize(p.x, p.first, p.rows)
            self._one(p.weight, p, p.out)
            if p.second is not None:
                other = np.empty_like(p.out[: p.rows])
                self._one(p.second, p, other)
                columns = 16 * p.weight.tiles.shape[0]
                generic.silu_multiply(p.out, other, p.rows, columns, p.out)

    def _one(self, weight: TiledMatrix, p: Matmul, out: Floats) -> None:
        rows, blocks = slice(p.first, p.first + p.rows), weight.blocks
        split = weight.definition.split
        for first in range(0, len(weight.tiles), TILES):
            tiles = weight.tiles[first : first + TILES]
            columns = out[:, TILE_ROWS * first :]
            if split is None:
                shape = TILE_ROWS * len(tiles), BLOCK * blocks
                wide = weight.definition.dequantize(tiles, *shape, *weight.books)
                generic.multiply_float(wide, p.x.values[rows], p.rows, columns)
            else:
                weights, scales = split(tiles, *weight.books)
                weights = weights.reshape(TILE_ROWS * len(tiles), BLOCK * blocks)
                scales = scales.reshape(TILE_ROWS * len(tiles), blocks)
                codes, scale = p.x.codes[rows], p.x.scale[rows]
                generic.multiply_int(weights, scales, codes, scale, p.rows, columns)

    def store_kv(  # noqa: D102
        self,
        q: Rows,
        k: Rows,
        v: Rows,
        rope: Rope,
        n: int,
        rows: int,
        kv: KVView,
    ) -> None:
        kv_heads, _, head_dim, _ = kv.keys.shape
        cos, sin = rope
        generic.rope_rows(k.values, kv_heads, cos, sin, n)
        generic.rope_rows(q.values, kv_heads * kv.group, cos[n - rows :], sin[n - rows :], rows)
        slots = kv.slots
        shape = n, kv_heads, head_dim
        keys: NDArray[Any]
        values: NDArray[Any]
        keys, values = (x.values[:n, : kv_heads * head_dim].reshape(shape) for x in (k, v))
        if kv.keys.dtype == np.int8:
            coded = quantize_heads(keys), quantize_heads(values)
            scales = np.stack([c.scale.T for c in coded], axis=1)
            kv.scales.view(np.float16)[:, :, slots] = scales
            keys, values = (c.codes for c in coded)
        elif kv.keys.dtype == np.uint16:
            keys, values = to_f16(keys), to_f16(values)
        as_numbers(kv.keys)[:, slots // 16, :, slots % 16] = keys
        as_numbers(kv.values)[:, slots, :head_dim] = values.transpose(1, 0, 2)

    def attention(self, q: Rows, n: int, kv: KVView, out: Rows) -> None:  # noqa: D102
        keys, values = (as_numbers(x).astype(np.float32) for x in (kv.keys, kv.values))
        if kv.keys.dtype == np.int8:
            scales = kv.scales.view(np.float16).astype(np.float32)
            keys *= scales[:, 0].reshape(len(keys), -1, 1, 16)
            values *= scales[:, 1, :, None]
        for row, position, queries, table in kv.items.tolist():
            blocks = kv.tables[table : table + (position + queries - 1) // KV_BLOCK + 1]
            tiles = (4 * blocks[:, None] + np.arange(4)).ravel()
            slots = (KV_BLOCK * blocks[:, None] + np.arange(KV_BLOCK)).ravel()
            generic.attention(
                q.values[row : row + queries], keys[:, tiles], values[:, slots],
                position, kv.window, kv.scale, kv.group, out.values[row:],
            )  # fmt: skip

    def route(  # noqa: D102
        self,
        x: Rows,
        router: Floats,
        experts: int,
        n: int,
        topk_ids: ExpertIds,
        topk_weights: Floats,
        norm_topk: bool = True,
    ) -> None:
        generic.route(x.values, router, experts, n, topk_ids, topk_weights, norm_topk)


def as_numbers(cache: NDArray[Any]) -> NDArray[Any]:
    """Return keys or values as what they are: kernels see float16 as uint16."""
    return cache.view(np.float16) if cache.dtype == np.uint16 else cache
