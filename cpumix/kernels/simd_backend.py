"""The operations of the forward pass on SIMD kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.tiles import BLOCK

from . import attention, gemm, kv_store, norm, route
from .backend import Backend, ExpertIds, Floats, Index, Rope
from .codecs import CODECS
from .compile.isa import active
from .compile.jit import ALONE
from .jobs import by_format, fields_of, input_rows
from .look_up import look_up
from .matmul import multiply
from .operands import KVView, MatmulGroup, Residual, TiledMatrix
from .quantize import quantize_rows
from .rows import Rows, aligned_zeros
from .simd import amx


class SimdBackend(Backend):
    """Owns the scratch memory of the kernels, one piece per thread."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if active().name == "amx":
            amx.request_permission()
        self._counter = np.zeros(1, np.int64)
        self._scratch = aligned_zeros((self.threads, gemm.SCRATCH_BYTES), np.uint8)

    def look_up(self, matrix: TiledMatrix, ids: Index) -> Floats:  # noqa: D102
        out = np.empty((len(ids), BLOCK * matrix.blocks), np.float32)
        weight = fields_of(matrix)
        look_up(CODECS[matrix.format])(weight.w0, weight.step, weight.book, ids, out)
        return out

    def norm(  # noqa: D102
        self, x: Rows, residual: Residual, weight: Floats, eps: float, n: int, out: Rows
    ) -> None:
        norm.norm(x.values, x.columns, residual.arrays, weight, eps, n, out.arrays)

    def multiply(self, group: MatmulGroup) -> None:  # noqa: D102
        if group.layout is None:
            group.layout = self._lay_out(group)
        inputs, runs = group.layout
        if len(inputs):
            quantize_rows(inputs, len(inputs))
        for run, *arguments in runs:
            self._counter[0] = 0
            run(*arguments, self._counter, self._scratch)

    def _lay_out(self, group: MatmulGroup) -> tuple[NDArray[np.int64], list[tuple[Any, ...]]]:
        """Return the rows that all threads quantize, and the kernels to run, with arguments.

        A few rows are quantized by the first of these, as a call takes longer than that.
        """
        inputs = input_rows(group)
        few, many = (inputs, inputs[:0]) if len(inputs) <= ALONE else (inputs[:0], inputs)
        runs = []
        for jobs in by_format(group.matmuls):
            runs.append((multiply(CODECS[jobs.format]), few, jobs.table, jobs.items))
            few = inputs[:0]
        return many, runs

    def store_kv(  # noqa: D102
        self, q: Rows, k: Rows, v: Rows, rope: Rope, n: int, queries: int, kv: KVView
    ) -> None:
        kv_store.store_kv(q.values, k.values, v.values, *rope, n, queries, kv)

    def attention(self, q: Rows, n: int, kv: KVView, out: Rows) -> None:  # noqa: D102
        needed = attention.scratch_bytes(kv.group, kv.values.shape[2])
        if self._scratch.shape[1] < needed:
            self._scratch = aligned_zeros((self.threads, needed), np.uint8)
        self._counter[0] = 0
        attention.attention(q.values[:n], kv, out.values, self._counter, self._scratch)

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
        route.route(x.values, router, experts, n, topk_ids, topk_weights, norm_topk)
