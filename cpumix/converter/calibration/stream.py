"""The tokens of the calibration text on their way through the model, layer by layer.

Letters: N tokens in windows of C that know nothing of each other, D hidden size, Q query columns, A
experts per token. What they go through are the model's own kernels and its rounded weights: so each
matrix is rounded for the inputs that it will have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.experts import Expert
from cpumix.kernels.backend import Backend
from cpumix.kernels.operands import Matmul, MatmulGroup, TiledMatrix
from cpumix.kv.pool import BlockPool
from cpumix.kv.table import BlockTable
from cpumix.memory.planner import default_context
from cpumix.quant.kv import KV_BLOCK
from cpumix.quant.tiles import BLOCK
from cpumix.transformer.attention import Attention
from cpumix.transformer.batch import Batch, Step
from cpumix.transformer.buffers import Buffers
from cpumix.transformer.residual import ResidualStream
from cpumix.transformer.weights import LayerWeights

Floats = NDArray[np.float32]
See = Callable[[Floats], None]
"""Takes some rows of a matrix's inputs."""


class TokenStream:
    """The residual stream x [N, D] of all tokens, and what the current half of a layer works on."""

    def __init__(self, config: ModelConfig, backend: Backend, windows: NDArray[np.int64]) -> None:
        count, length = windows.shape
        self._config, self._backend, self._windows = config, backend, windows
        one_layer = replace(config, num_hidden_layers=1)
        blocks = -(-length // KV_BLOCK)
        self._pool = BlockPool(one_layer, blocks, "f32")
        self._table = BlockTable(self._pool, blocks)
        self._buffers = b = Buffers(config, length, config.num_local_experts)
        self._stream = ResidualStream(backend, b.x, b.h, config.rms_norm_eps)
        context = default_context(config)
        self._attention = Attention(config, backend, b, self._pool, context)
        width = BLOCK * max(b.h.blocks, b.attn_out.blocks)
        self._x = np.zeros((count * length, config.hidden_size), np.float32)
        self._work = np.zeros((count * length, width), np.float32)  # attn_out, then h
        active = config.num_experts_per_tok
        self._topk_ids = np.zeros((count * length, active), np.int32)
        self._topk_weights = np.ones((count * length, active), np.float32)

    @property
    def tokens(self) -> int:
        """N."""
        return len(self._x)

    @property
    def energy(self) -> float:
        """The mean over tokens of the sum of squares of x."""
        return float(np.einsum("nd,nd->", self._x, self._x, dtype=np.float64)) / self.tokens

    def _each_window(self) -> Iterator[slice]:
        length = self._windows.shape[1]
        yield from (slice(i, i + length) for i in range(0, self.tokens, length))

    def embed(self, embedding: TiledMatrix) -> None:
        """Begin with the embeddings of all tokens."""
        for ids, here in zip(self._windows, self._each_window(), strict=True):
            self._x[here] = self._backend.look_up(embedding, ids)[:, : self._x.shape[1]]

    def see_normed(self, gain: Floats, see: See) -> None:
        """Show the norm of x, window by window."""
        for here in self._each_window():
            self._stream.start(self._x[here])
            h = self._stream.norm(gain)
            see(h.values[: here.stop - here.start, : BLOCK * h.blocks])

    def attend(self, layer: LayerWeights, see: See) -> None:
        """Let tokens attend to each other; show what they find, the inputs of wo [N, Q]."""
        b = self._buffers
        for ids, here in zip(self._windows, self._each_window(), strict=True):
            batch = Batch([Step(ids.tolist(), 0, self._table, 0)])
            self._attention.start(batch)
            self._stream.start(self._x[here])
            self._attention.attend(layer, self._stream.norm(layer.attn_norm), batch)
            found = b.attn_out.values[: len(ids), : BLOCK * b.attn_out.blocks]
            self._work[here, : found.shape[1]] = found
            see(found)

    def project(self, layer: LayerWeights) -> float:
        """Add attention's outputs to x, norm it and route; return the energy that was added."""
        b, config, added = self._buffers, self._config, 0.0
        for here in self._each_window():
            n, columns = here.stop - here.start, BLOCK * b.attn_out.blocks
            b.attn_out.values[:n, :columns] = self._work[here, :columns]
            self._stream.start(self._x[here])
            self._stream.add(self._attention.project(layer, self._attention.output(layer, n), n))
            h = self._stream.norm(layer.ffn_norm)
            self._x[here] = b.x.values[:n, : config.hidden_size]
            self._work[here, : BLOCK * h.blocks] = h.values[:n, : BLOCK * h.blocks]
            out = b.attn_proj.values[:n]
            added += float(np.einsum("nd,nd->", out, out, dtype=np.float64))
            if layer.router is not None:
                experts, norm_topk = config.num_local_experts, config.norm_topk_prob
                self._backend.route(
                    h, layer.router, experts, n, b.topk_ids, b.topk_weights, norm_topk
                )
                self._topk_ids[here] = b.topk_ids[:n]
                self._topk_weights[here] = b.topk_weights[:n]
        return added / self.tokens

    @property
    def weight_energy(self) -> float:
        """The mean square of the weights that routers gave."""
        return float(np.square(self._topk_weights).mean())

    def of_expert(self, expert: int) -> tuple[NDArray[np.int64], Floats]:
        """Return the tokens that go through an expert, and their weights."""
        tokens, places = np.nonzero(self._topk_ids == expert)
        return tokens, self._topk_weights[tokens, places]

    def some_tokens(self, count: int) -> NDArray[np.int64]:
        """Return so many tokens at most, from all parts of the text."""
        count = min(count, self.tokens)
        return np.arange(count) * self.tokens // count

    def chunks(self, tokens: NDArray[np.int64]) -> Iterator[tuple[slice, Floats]]:
        """Yield which of these tokens come next, and their inputs to experts [.., D]."""
        columns = BLOCK * self._buffers.expert_in.blocks
        size = self._windows.shape[1]
        for first in range(0, len(tokens), size):
            here = slice(first, min(first + size, len(tokens)))
            yield here, self._work[tokens[here], :columns]

    def see_hidden(self, w1: TiledMatrix, w3: TiledMatrix, x: Floats) -> Floats:
        """Return silu(w1 x) * w3 x of some rows, the inputs of w2; until the next call."""
        b, n = self._buffers, len(x)
        b.expert_in.values[:n, : x.shape[1]] = x
        product = Matmul(w1, b.expert_in, 0, n, b.expert_hidden.values, w3)
        self._backend.multiply(MatmulGroup([product], quantize_inputs=True))
        return b.expert_hidden.values[:n, : BLOCK * b.expert_hidden.blocks]

    def add_expert(self, expert: Expert, tokens: NDArray[np.int64], weights: Floats) -> float:
        """Add what an expert gives for these tokens to x; return the energy, a token of all."""
        b, added = self._buffers, 0.0
        for here, x in self.chunks(tokens):
            self.see_hidden(expert.w1, expert.w3, x)
            n = len(x)
            product = Matmul(expert.w2, b.expert_hidden, 0, n, b.expert_out.values)
            self._backend.multiply(MatmulGroup([product], quantize_inputs=True))
            out = b.expert_out.values[:n, : self._x.shape[1]] * weights[here, None]
            self._x[tokens[here]] += out
            added += float(np.einsum("nd,nd->", out, out, dtype=np.float64))
        return added / self.tokens
