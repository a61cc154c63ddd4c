"""The operations of the forward pass on plain loops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..quant import bf16
from . import generic
from .engine import Chosen, Engine, Floats
from .operands import Matrix, Past, Product
from .rows import Rows


class GenericEngine(Engine):
    """Slow and obvious; what the SIMD kernels must agree with."""

    def norm(self, x: Rows, weight: Floats, eps: float, n: int, out: Rows) -> None:  # noqa: D102
        generic.norm(x.values, weight, eps, x.columns, n, out.values)

    def quantize(self, x: Rows, n: int) -> None:  # noqa: D102
        generic.quantize_rows(x.values, n, x.blocks, x.codes, x.scale, x.start)

    def multiply(self, products: Sequence[Product]) -> None:  # noqa: D102
        for p in products:
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

    def attend(self, q: Rows, n: int, past: Past, out: Rows) -> None:  # noqa: D102
        keys, values = (
            c.view(np.float16).astype(np.float32) if c.dtype == np.uint16 else c
            for c in (past.keys, past.values)
        )
        generic.attend(q.values[:n], *past._replace(keys=keys, values=values), out.values)

    def route(  # noqa: D102
        self, x: Rows, router: Floats, experts: int, n: int, chosen: Chosen, share: Floats
    ) -> None:
        generic.route(x.values, router, experts, n, chosen, share)
