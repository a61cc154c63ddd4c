"""Grouped-query attention with rotary positions over a key-value cache."""

from __future__ import annotations

from functools import partial

import numpy as np

from cpumix.config import ModelConfig
from cpumix.kernels.backend import Backend
from cpumix.kernels.operands import KVView, Matmul, MatmulGroup, Residual
from cpumix.kernels.rows import Rows
from cpumix.kv.pool import BlockPool

from .batch import Batch
from .buffers import Buffers
from .matmul_cache import KEPT_ROWS, MatmulCache
from .projections import add_bias, norm
from .rope import cos_sin, frequencies
from .weights import LayerWeights


class Attention:
    """wo(softmax(q k^T / sqrt(head_dim)) v), for each query head with the key head it shares."""

    def __init__(
        self, config: ModelConfig, backend: Backend, buffers: Buffers, pool: BlockPool, context: int
    ) -> None:
        self._config = config
        self._backend, self._buffers, self._pool = backend, buffers, pool
        self._group = config.num_attention_heads // config.num_key_value_heads
        self._scale = config.head_dim**-0.5
        self._frequencies = frequencies(config, context)
        self._groups = MatmulCache[MatmulGroup]()
        tokens = len(buffers.topk_ids)
        self._residual = Residual(
            buffers.attn_proj, np.arange(tokens)[:, None], np.ones((tokens, 1), np.float32)
        )

    def start(self, batch: Batch) -> None:
        """Compute what all layers share: the rotations of the batch's positions."""
        self._rope = cos_sin(self._frequencies, batch.positions)  # [T, head_dim / 2]

    def __call__(self, layer: LayerWeights, h: Rows, batch: Batch) -> Residual:
        """Store keys and values of T tokens; return what attention adds to the last R [R, D]."""
        output = self.attend(layer, h, batch)
        return self.project(layer, output, batch.rows_through(layer.is_last))

    def attend(self, layer: LayerWeights, h: Rows, batch: Batch) -> MatmulGroup:
        """Store keys and values of T tokens; bring what the last R attend to in `attn_out` [R, Q].

        Return the product with wo, which is then due.
        """
        b, n, queries = self._buffers, len(batch), batch.rows_through(layer.is_last)
        key = (layer.index, n, queries) if n <= KEPT_ROWS else None
        qkv, output = self._groups.get(key, partial(self._matmuls, layer, h, n, queries))
        self._backend.multiply(qkv)  # q [R, Q], k, v [T, K]
        self._finish(layer, n, queries)
        cache = *self._pool.layer(layer.index), *batch.place(layer.is_last), self._pool.window
        view = KVView(*cache, self._scale, self._group)
        self._backend.store_kv(b.q, b.k, b.v, self._rope, n, queries, view)
        self._backend.attention(b.q, queries, view, b.attn_out)  # [R, Q]
        return output

    def project(self, layer: LayerWeights, output: MatmulGroup, queries: int) -> Residual:
        """Return wo times `attn_out`, and the bias, as what is added to R rows [R, D]."""
        b = self._buffers
        self._backend.multiply(output)  # [R, D]
        if layer.output_bias is not None:
            add_bias(b.attn_proj.values[:queries], layer.output_bias)
        all_rows = self._residual
        return Residual(all_rows.rows, all_rows.indices[:queries], all_rows.weights[:queries])

    def output(self, layer: LayerWeights, queries: int) -> MatmulGroup:
        """Return the product of wo with `attn_out`, R rows."""
        b = self._buffers
        product = Matmul(layer.wo, b.attn_out, 0, queries, b.attn_proj.values)
        return MatmulGroup([product], quantize_inputs=True)

    def _finish(self, layer: LayerWeights, n: int, queries: int) -> None:
        """Add the biases of q, k and v, and norm q and k, in a model that has them."""
        if layer.qkv_bias is None and layer.qk_norm is None:
            return
        b = self._buffers
        q, k, v = b.q.values[:queries], b.k.values[:n], b.v.values[:n]
        if layer.qkv_bias is not None:
            for x, bias in zip((q, k, v), layer.qkv_bias, strict=True):
                add_bias(x, bias)
        if layer.qk_norm is not None:
            columns = self._config.q_size, self._config.kv_size
            for x, width, gain in zip((q, k), columns, layer.qk_norm, strict=True):
                norm(x, width, gain, self._config.rms_norm_eps)

    def _matmuls(
        self, layer: LayerWeights, h: Rows, n: int, queries: int
    ) -> tuple[MatmulGroup, MatmulGroup]:
        b = self._buffers
        q = Matmul(layer.wq, h, n - queries, queries, b.q.values)
        k, v = Matmul(layer.wk, h, 0, n, b.k.values), Matmul(layer.wv, h, 0, n, b.v.values)
        return MatmulGroup([q, k, v]), self.output(layer, queries)
