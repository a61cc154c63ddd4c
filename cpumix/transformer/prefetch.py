"""Tells the pager which experts the next layer will probably use, before its router has spoken."""

from __future__ import annotations

import numpy as np

from cpumix.config import ModelConfig
from cpumix.experts import ExpertPager, take_low_copies
from cpumix.kernels.backend import Backend
from cpumix.kernels.operands import Residual
from cpumix.kernels.rows import Rows

from .weights import LayerWeights

PREDICTED_ROWS = 4  # of more, the experts together are most of a layer's
# With this many tokens per expert, a chunk routes to every expert in practice.
TOKENS_PER_EXPERT = 8


class Prefetch:
    """Predicts by the next layer's router, from the stream as it is before this layer's experts."""

    def __init__(self, config: ModelConfig, backend: Backend, pager: ExpertPager) -> None:
        self._experts, self._eps = config.num_local_experts, config.rms_norm_eps
        self._backend, self._pager = backend, pager
        self._h = Rows(PREDICTED_ROWS, config.hidden_size)
        shape = PREDICTED_ROWS, config.num_experts_per_tok
        self._topk_ids, self._topk_weights = np.zeros(shape, np.int32), np.ones(shape, np.float32)
        shape = PREDICTED_ROWS, 0
        self._nothing = np.zeros(shape, np.int64), np.zeros(shape, np.float32)

    def __call__(self, layer: LayerWeights, x: Rows, n: int) -> None:
        """Ask for the experts that n rows of x will probably take in `layer`."""
        if layer.router is None or n >= TOKENS_PER_EXPERT * self._experts:
            self._pager.prefetch(layer.index, range(self._pager.experts), sure=True)
        elif n <= PREDICTED_ROWS:
            ids = self._topk_ids[:n]
            nothing = Residual(x, *self._nothing)
            self._backend.norm(x, nothing, layer.ffn_norm, self._eps, n, self._h)
            self._backend.route(
                self._h, layer.router, self._experts, n, self._topk_ids, self._topk_weights
            )
            if self._pager.low_copies:
                take_low_copies(ids, self._topk_weights[:n], self._experts)
            self._pager.prefetch(layer.index, np.unique(ids).tolist())
