"""The operations of the forward pass on SIMD kernels."""

from __future__ import annotations

import numpy as np

from . import attention, gemm, kv_store, norm, route
from .backend import Backend, ExpertIds, Floats, Rope
from .codecs import CODECS
from .compile.isa import active
from .jobs import by_format, input_rows
from .matmul import multiply
from .operands import KVView, MatmulGroup, Residual
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

    def norm(  # noqa: D102
        self, x: Rows, residual: Residual, weight: Floats, eps: float, n: int, out: Rows
    ) -> None:
        norm.norm(x.values, x.columns, residual.arrays, weight, eps, n, out.arrays)

    def multiply(self, group: MatmulGroup) -> None:  # noqa: D102
        if group.layout is None:
            tables = [(multiply(CODECS[j.format]), j) for j in by_format(group.matmuls)]
            group.layout = input_rows(group), tables
        inputs, tables = group.layout
        if len(inputs):
            quantize_rows(inputs, len(inputs))
        for run, jobs in tables:
            self._counter[0] = 0
            run(jobs.table, jobs.items, self._counter, self._scratch)

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
