"""The forward pass of a Mixtral (or, with one expert and no router, of a Mistral or Llama).

Letters: T tokens of a batch, D hidden size, Q query columns, K key columns, I intermediate size,
E experts, A experts per token. Every buffer is allocated once. What a row comes out as does not
depend on the batch it came in with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .config import ModelConfig
from .kernels.engine import Engine
from .kernels.operands import Matrix, Past, Product
from .kernels.rows import Rows
from .kv_cache import KVCache
from .paging import ExpertPager, as_matrix
from .quant import FORMATS
from .rope import frequencies, rotation
from .sizes import PREFILL_TOKENS
from .store.reader import ModelFile

Floats = NDArray[np.float32]
BATCH = PREFILL_TOKENS
SWEEP = 8  # tokens for each expert of a layer, from which on a batch surely uses them all


class Layer(NamedTuple):
    """The dense part of one layer."""

    attn_norm: Floats  # (D,)
    wq: Matrix  # (Q, D)
    wk: Matrix  # (K, D)
    wv: Matrix  # (K, D)
    wo: Matrix  # (D, Q)
    ffn_norm: Floats  # (D,)
    router: Floats | None  # (D, E), experts as columns


class Buffers:
    """Room for a batch; pages are touched only as far as rows are used."""

    def __init__(self, config: ModelConfig, batch: int) -> None:
        active = config.num_experts_per_tok
        self.x = Rows(batch, config.hidden_size)  # the residual stream
        self.h = Rows(batch, config.hidden_size)  # normed
        self.q = Rows(batch, config.q_size)
        self.k = Rows(batch, config.kv_size)
        self.v = Rows(batch, config.kv_size)
        self.heads = Rows(batch, config.q_size)  # what attention found
        self.update = Rows(batch, config.hidden_size)
        self.routed = Rows(batch * active, config.hidden_size)  # rows sorted by expert
        self.inner = Rows(batch * active, config.intermediate_size)
        self.outputs = Rows(batch * active, config.hidden_size)
        self.chosen = np.zeros((batch, active), np.int32)
        self.share = np.ones((batch, active), np.float32)


class Guess:
    """Room for what one token will do in the next layer."""

    def __init__(self, config: ModelConfig) -> None:
        self.x = Rows(1, config.hidden_size)
        self.chosen = np.zeros((1, config.num_experts_per_tok), np.int32)
        self.share = np.ones((1, config.num_experts_per_tok), np.float32)


class Transformer:
    """Weights as views of the file, buffers, and the pass over them."""

    def __init__(self, file: ModelFile, engine: Engine, cache: KVCache, pager: ExpertPager) -> None:
        self.config, self.cache = file.config, cache
        self._file, self._engine, self._pager = file, engine, pager
        self._embedding = self._matrix("token_embd.weight")
        self._output = (
            self._matrix("output.weight")
            if not self.config.tie_word_embeddings
            else self._embedding
        )
        self._frequencies = frequencies(self.config)
        self.batch = min(BATCH, cache.context)
        self._buffers, self._guess = Buffers(self.config, self.batch), Guess(self.config)

    def forward(self, ids: Sequence[int], on_layer: Callable[[int], None] | None = None) -> None:
        """Run the next T <= batch tokens; their normed states are then ready for `logits`.

        `on_layer` gets the number of layers done, after each.
        """
        b, n = self._buffers, len(ids)
        position = self.cache.position
        self._pager.begin(position, ids, min(position / self.cache.capacity, 1.0))
        turn = rotation(self._frequencies, position, n)
        self._embed(ids)  # b.x [T, D]
        for index, layer in enumerate(self._layers):
            # attention
            self._norm(b.x, layer.attn_norm, n, layer.wq)  # b.h [T, D]
            self._attend(index, layer, n, turn)  # b.update [T, D]
            self._engine.accumulate(b.x, b.update, n)
            # experts
            self._norm(b.x, layer.ffn_norm, n)
            places = self._route(layer, n)
            self._run_experts(index, n, places)  # b.outputs [T * A, D]
            self._engine.combine(b.x, b.outputs, places, b.share, n)
            if on_layer is not None:
                on_layer(index + 1)
        self.cache.advance(n)
        self._norm(b.x, self._output_norm, n, self._output)
        self._pager.check()

    def logits(self, first: int, count: int) -> Floats:
        """Return the logits (count, vocab_size) of rows first, first + 1, ... of the last batch."""
        out = np.empty((count, 16 * self._output.tiles.shape[0]), np.float32)
        self._engine.multiply([Product(self._output, self._buffers.h, first, count, out)])
        self._pager.check()
        return out[:, : self.config.vocab_size]

    def _embed(self, ids: Sequence[int]) -> None:
        rows = FORMATS[self._embedding.format].rows(
            self._embedding.tiles, np.asarray(ids, np.int64)
        )
        self._buffers.x.values[: len(ids), : rows.shape[1]] = rows

    def _norm(self, x: Rows, weight: Floats, n: int, reader: Matrix | None = None) -> None:
        """Norm x to b.h, and quantize it if the matrix that reads it wants codes."""
        self._engine.norm(x, weight, self.config.rms_norm_eps, n, self._buffers.h)
        self._quantize(self._buffers.h, n, reader)

    def _quantize(self, x: Rows, n: int, reader: Matrix | None) -> None:
        if reader is None or reader.takes_codes:
            self._engine.quantize(x, n)

    def _attend(self, index: int, layer: Layer, n: int, turn: tuple[Floats, Floats]) -> None:
        b, c, engine = self._buffers, self.config, self._engine
        outs = ((layer.wq, b.q), (layer.wk, b.k), (layer.wv, b.v))
        engine.multiply([Product(w, b.h, 0, n, out.values) for w, out in outs])
        engine.rotate(b.q, c.num_attention_heads, *turn, n)
        engine.rotate(b.k, c.num_key_value_heads, *turn, n)
        group = c.num_attention_heads // c.num_key_value_heads
        scale = c.head_dim**-0.5
        cache = self.cache
        past = Past(*cache.layer(index), cache.position, cache.window, scale, group)
        engine.remember(b.k, b.v, n, past)
        engine.attend(b.q, n, past, b.heads)
        self._quantize(b.heads, n, layer.wo)
        engine.multiply([Product(layer.wo, b.heads, 0, n, b.update.values)])

    def _route(self, layer: Layer, n: int) -> NDArray[np.int64]:
        """Choose experts; sort the T x A pairs by expert and return each pair's place (T, A)."""
        b, active = self._buffers, self.config.num_experts_per_tok
        if layer.router is not None:
            self._engine.route(
                b.h, layer.router, self.config.num_local_experts, n, b.chosen, b.share
            )
        self._order = np.argsort(b.chosen[:n].ravel(), kind="stable")
        places = np.empty(n * active, np.int64)
        places[self._order] = np.arange(n * active)
        return places.reshape(n, active)

    def _run_experts(self, index: int, n: int, places: NDArray[np.int64]) -> None:
        """Compute w2(silu(w1 h) * w3 h) for each pair of token and expert, expert by expert."""
        b, active = self._buffers, self.config.num_experts_per_tok
        counts = np.bincount(b.chosen[:n].ravel(), minlength=self.config.num_local_experts)
        firsts = np.cumsum(counts) - counts
        used = np.nonzero(counts)[0].tolist()
        if n == 1:
            routed, origin = b.h, np.zeros_like(firsts)
        else:
            routed, origin = b.routed, firsts
            routed.gather(b.h, self._order // active)
        with self._pager.lease(index, used, b.chosen[:n]) as parts:
            self._guess_experts(index + 1, n)
            for part in parts:
                up, down = [], []
                for e, (w1, w3, w2) in part.experts.items():
                    first, count = int(firsts[e]), int(counts[e])
                    inner = b.inner.values[first:]
                    up.append(Product(w1, routed, int(origin[e]), count, inner, w3))
                    down.append(Product(w2, b.inner, first, count, b.outputs.values[first:]))
                part.wait_for_gates()
                self._engine.multiply(up)  # b.inner [T * A, I]
                if len(down) == len(used):
                    self._quantize(b.inner, n * active, down[0].weight)
                else:
                    for p in down:
                        self._quantize(b.inner.part(p.first), p.rows, p.weight)
                part.wait_for_rest()
                self._engine.multiply(down)

    def _guess_experts(self, index: int, n: int) -> None:
        """Tell the pager which experts layer `index` will probably use, if it can be of help.

        A long prompt uses all. One token's are guessed by the layer's router, from the state
        before the present layer's experts have changed it.
        """
        if index == len(self._layers) or not self._pager.wants_guesses:
            return
        layer, experts = self._layers[index], self.config.num_local_experts
        if layer.router is None or n >= SWEEP * experts:
            self._pager.guess(index, range(experts), sure=True)
        elif n == 1:
            g = self._guess
            self._engine.norm(self._buffers.x, layer.ffn_norm, self.config.rms_norm_eps, 1, g.x)
            self._engine.route(g.x, layer.router, experts, 1, g.chosen, g.share)
            self._pager.guess(index, g.chosen[0].tolist())

    # Copied by the first pass, when the pager has brought the dense part: loading reads nothing.

    @cached_property
    def _layers(self) -> list[Layer]:
        return [self._layer(i) for i in range(self.config.num_hidden_layers)]

    @cached_property
    def _output_norm(self) -> Floats:
        return self._vector("output_norm.weight")

    def _matrix(self, name: str) -> Matrix:
        tensor = self._file.tensors[name]
        return as_matrix(self._file.data(name), tensor.format, *tensor.shape)

    def _vector(self, name: str) -> Floats:
        """Copy a float32 vector, zero-padded to whole blocks of 32, as the norm kernel reads it."""
        data = self._file.data(name).view(np.float32)
        out = np.zeros(-(-len(data) // 32) * 32, np.float32)
        out[: len(data)] = data
        return out

    def _layer(self, index: int) -> Layer:
        block, router = f"blk.{index}.", None
        if self.config.is_moe:
            data = self._file.data(block + "router.weight").view(np.float32)
            experts = self.config.num_local_experts
            router = np.zeros((self.config.hidden_size, -(-experts // 16) * 16), np.float32)
            router[:, :experts] = data.reshape(experts, -1).T
        return Layer(
            attn_norm=self._vector(block + "attn_norm.weight"),
            wq=self._matrix(block + "attn_q.weight"),
            wk=self._matrix(block + "attn_k.weight"),
            wv=self._matrix(block + "attn_v.weight"),
            wo=self._matrix(block + "attn_output.weight"),
            ffn_norm=self._vector(block + "ffn_norm.weight"),
            router=router,
        )
