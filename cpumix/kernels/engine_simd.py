"""The operations of the forward pass on SIMD kernels."""

from __future__ import annotations

import numpy as np

from . import attention, panels, products, rowwise, simd_amx
from . import past as cache
from .engine import Chosen, Engine, Floats
from .isa import active
from .operands import Addition, Past, Work
from .rows import Rows, aligned_zeros


class SimdEngine(Engine):
    """Owns the memory that kernels scribble in, one piece per thread."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if active().name == "amx":
            simd_amx.request_permission()
        self._counter = np.zeros(1, np.int64)
        self._scratch = aligned_zeros((self.threads, panels.SCRATCH_BYTES), np.uint8)

    def norm(  # noqa: D102
        self, x: Rows, added: Addition, weight: Floats, eps: float, n: int, out: Rows
    ) -> None:
        outputs, places, share = added
        rowwise.norm(
            x.values, x.columns, outputs.values, places, share, weight, eps, n,
            out.values, out.codes, out.headers,
        )  # fmt: skip

    def multiply(self, work: Work) -> None:  # noqa: D102
        if work.laid_out is None:
            work.laid_out = *products.job_table(work.products), products.fresh_rows(work)
        jobs, items, fresh = work.laid_out
        self._counter[0] = 0
        products.multiply(jobs, items, fresh, self._counter, self._scratch)

    def remember(  # noqa: D102
        self, q: Rows, k: Rows, v: Rows, turn: tuple[Floats, Floats], n: int, rows: int, past: Past
    ) -> None:
        kept = past.keys, past.values, past.scales
        cache.remember(
            q.values, k.values, v.values, *turn, n, rows, *kept, past.position, past.group
        )

    def attend(self, q: Rows, n: int, past: Past, out: Rows) -> None:  # noqa: D102
        needed = attention.scratch_bytes(past.group, past.values.shape[2])
        if self._scratch.shape[1] < needed:
            self._scratch = aligned_zeros((self.threads, needed), np.uint8)
        self._counter[0] = 0
        attention.attend(q.values[:n], *past, out.values, self._counter, self._scratch)

    def route(  # noqa: D102
        self, x: Rows, router: Floats, experts: int, n: int, chosen: Chosen, share: Floats
    ) -> None:
        rowwise.route(x.values, router, experts, n, chosen, share)
