"""The forward pass of a Mixtral (or, with one expert and no router, of a Mistral or Llama).

Letters: T tokens of a batch, R of them to the end of a layer, D hidden size, Q query columns, K key
columns, I intermediate size, E experts, A experts per token. Every buffer is allocated once. What a
row comes out as does not depend on the batch it came in with.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.experts import Expert, ExpertPager, as_matrix
from cpumix.kernels.backend import Backend, Rope
from cpumix.kernels.operands import KVView, Matmul, MatmulGroup, Matrix, Residual
from cpumix.kernels.rows import Rows
from cpumix.kv.cache import KVCache
from cpumix.memory.sizes import PREFILL_TOKENS
from cpumix.quant import FORMATS
from cpumix.store.reader import ModelFile

from .rope import cos_sin, frequencies

Floats = NDArray[np.float32]
PREFILL_CHUNK = PREFILL_TOKENS
MOST_KEPT = 4096  # pieces of work of one token
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
        self.topk_ids = np.zeros((batch, active), np.int32)
        self.share = np.ones((batch, active), np.float32)
        # Pairs of token and expert, sorted by expert: where each one's begin, whose they are, and
        # where each token's have gone.
        self.expert_offsets = np.zeros(config.num_local_experts + 1, np.int64)
        self.tokens = np.zeros(batch * active, np.int64)
        self.places = np.zeros((batch, active), np.int64)
        # What each half of a layer adds to the stream.
        self.attended = Residual(
            self.update, np.arange(batch)[:, None], np.ones((batch, 1), np.float32)
        )
        self.computed = Residual(self.outputs, self.places, self.share)
        self.nothing = Residual(
            self.update, np.zeros((batch, 0), np.int64), np.zeros((batch, 0), np.float32)
        )


class Guess:
    """Room for what one token will do in the next layer."""

    def __init__(self, config: ModelConfig) -> None:
        self.x = Rows(1, config.hidden_size)
        self.topk_ids = np.zeros((1, config.num_experts_per_tok), np.int32)
        self.share = np.ones((1, config.num_experts_per_tok), np.float32)


def expert_matmuls(
    experts: Mapping[int, Expert],
    expert_offsets: Sequence[int],
    x: Rows,
    inner: Rows,
    outputs: Rows,
    shared: bool = False,
) -> tuple[MatmulGroup, MatmulGroup]:
    """Return silu(w1 x) * w3 x, to `inner`, and w2 times that, to `outputs`, of some experts.

    Expert e has the rows firsts[e] to firsts[e + 1] of all three; if `shared`, x is one row.
    """
    up, down = [], []
    for e, (w1, w3, w2) in experts.items():
        first, count = expert_offsets[e], expert_offsets[e + 1] - expert_offsets[e]
        up.append(Matmul(w1, x, 0 if shared else first, count, inner.values[first:], w3))
        down.append(Matmul(w2, inner, first, count, outputs.values[first:]))
    return MatmulGroup(up), MatmulGroup(down, quantize_inputs=True)


class Transformer:
    """Weights as views of the file, buffers, and the pass over them."""

    def __init__(
        self, file: ModelFile, engine: Backend, cache: KVCache, pager: ExpertPager
    ) -> None:
        self.config, self.cache = file.config, cache
        self._file, self._backend, self._pager = file, engine, pager
        self._embedding = self._matrix("token_embd.weight")
        self._output = (
            self._matrix("output.weight")
            if not self.config.tie_word_embeddings
            else self._embedding
        )
        self._frequencies = frequencies(self.config, cache.context)
        self.batch = min(PREFILL_CHUNK, cache.context)
        self._buffers, self._guess = Buffers(self.config, self.batch), Guess(self.config)
        self._kept: dict[Hashable, tuple[MatmulGroup, MatmulGroup]] = {}

    def forward(
        self,
        ids: Sequence[int],
        num_logits: int = 1,
        on_layer: Callable[[int], None] | None = None,
    ) -> None:
        """Run the next T <= batch tokens; the last `wanted` of them are then ready for `logits`.

        In the last layer the others leave their keys and values, and no more is done for them.
        `on_layer` gets the number of layers done, after each.
        """
        b, n = self._buffers, len(ids)
        position = self.cache.position
        self._pager.begin(position, ids, min(position / self.cache.capacity, 1.0))
        rope = cos_sin(self._frequencies, position, n)
        self._embed(ids)  # b.x [T, D]
        added = b.nothing
        for index, layer in enumerate(self._layers):
            rows = self._rows_of(index, n, num_logits)  # R, the last ones
            # attention
            self._norm(added, layer.attn_norm, n)  # b.x, b.h [T, D]
            self._attend(index, layer, n, rows, rope)  # b.update [R, D]
            if rows < n:
                b.x.values[:rows] = b.x.values[n - rows : n]
            # experts
            self._norm(b.attended, layer.ffn_norm, rows)  # b.x, b.h [R, D]
            self._route(layer, rows)  # b.chosen, b.places [R, A]
            self._run_experts(index, rows, self._rows_of(index + 1, n, num_logits))  # b.outputs
            added = b.computed
            if on_layer is not None:
                on_layer(index + 1)
        self.cache.advance(n)
        self._norm(added, self._output_norm, num_logits)
        self._pager.check()

    def _rows_of(self, index: int, n: int, num_logits: int) -> int:
        """Return how many of a batch's tokens go through all of layer `index`."""
        return n if index + 1 < len(self._layers) else num_logits

    def logits(self, count: int = 1) -> Floats:
        """Return the logits (count, vocab_size) of the first of the tokens that were wanted."""
        out = np.empty((count, 16 * self._output.tiles.shape[0]), np.float32)
        self._backend.multiply(MatmulGroup([Matmul(self._output, self._buffers.h, 0, count, out)]))
        self._pager.check()
        return out[:, : self.config.vocab_size]

    def _embed(self, ids: Sequence[int]) -> None:
        rows = FORMATS[self._embedding.format].rows(
            self._embedding.tiles, np.asarray(ids, np.int64)
        )
        self._buffers.x.values[: len(ids), : rows.shape[1]] = rows

    def _norm(self, added: Residual, weight: Floats, n: int) -> None:
        """Add to the residual stream, and norm what it is then."""
        b = self._buffers
        self._backend.norm(b.x, added, weight, self.config.rms_norm_eps, n, b.h)

    def _attend(self, index: int, layer: Layer, n: int, rows: int, rope: Rope) -> None:
        """Keep keys and values of n tokens, and let the last `rows` of them attend."""
        b, c, engine, cache = self._buffers, self.config, self._backend, self.cache
        qkv, wo = self._keep(index, n, partial(self._attention_work, layer, n, rows))
        engine.multiply(qkv)
        group = c.num_attention_heads // c.num_key_value_heads
        scale = c.head_dim**-0.5
        past = KVView(*cache.layer(index), cache.position, cache.window, scale, group)
        engine.store_kv(b.q, b.k, b.v, rope, n, rows, past)
        if rows < n:
            past = past._replace(position=cache.position + n - rows)
        engine.attention(b.q, rows, past, b.heads)
        engine.multiply(wo)

    def _attention_work(self, layer: Layer, n: int, rows: int) -> tuple[MatmulGroup, MatmulGroup]:
        b = self._buffers
        q = Matmul(layer.wq, b.h, n - rows, rows, b.q.values)
        k, v = (Matmul(w, b.h, 0, n, x.values) for w, x in ((layer.wk, b.k), (layer.wv, b.v)))
        o = Matmul(layer.wo, b.heads, 0, rows, b.update.values)
        return MatmulGroup([q, k, v]), MatmulGroup([o], quantize_inputs=True)

    def _keep(
        self, key: Hashable, n: int, make: Callable[[], tuple[MatmulGroup, MatmulGroup]]
    ) -> tuple[MatmulGroup, MatmulGroup]:
        """Make work, or find it: one token's work recurs, and to lay it out takes long."""
        if n > 1:
            return make()
        if key not in self._kept:
            if len(self._kept) == MOST_KEPT:  # of many experts, few sets recur
                self._kept.clear()
            self._kept[key] = make()
        return self._kept[key]

    def _route(self, layer: Layer, n: int) -> None:
        """Choose experts, and sort the T x A pairs of token and expert by expert."""
        b, experts = self._buffers, self.config.num_local_experts
        if layer.router is not None:
            self._backend.route(b.h, layer.router, experts, n, b.topk_ids, b.share)
        self._backend.sort_by_expert(b.topk_ids, n, b.expert_offsets, b.tokens, b.places)

    def _run_experts(self, index: int, n: int, n_next: int) -> None:
        """Compute w2(silu(w1 h) * w3 h) for each pair of token and expert, expert by expert.

        `n_next` of the tokens will go through the next layer's experts.
        """
        b, active = self._buffers, self.config.num_experts_per_tok
        expert_offsets = b.expert_offsets.tolist()
        used = [e for e, (first, end) in enumerate(pairwise(expert_offsets)) if first < end]
        if n > 1:
            for codes in {self._pager.view(index, e).w1.takes_codes for e in used}:
                b.routed.gather(b.h, b.tokens[: n * active], codes)
        with self._pager.lease(index, used, b.topk_ids[:n]) as parts:
            self._guess_experts(index + 1, n, n_next)
            for part in parts:
                experts = part.experts
                key = index, *((e, expert_offsets[e]) for e in experts)
                rows = b.h if n == 1 else b.routed, b.inner, b.outputs, n == 1
                up, down = self._keep(
                    key, n, partial(expert_matmuls, experts, expert_offsets, *rows)
                )
                part.wait_for_gates()
                self._backend.multiply(up)  # b.inner [T * A, I]
                part.wait_for_rest()
                self._backend.multiply(down)

    def _guess_experts(self, index: int, n: int, rows: int) -> None:
        """Tell the pager which experts layer `index` will probably use, if it can be of help.

        A long prompt uses all. One token's are guessed by the layer's router, from the state
        before the present layer's experts have changed it: that of the last of n.
        """
        if index == len(self._layers) or not self._pager.wants_prefetch:
            return
        layer, experts = self._layers[index], self.config.num_local_experts
        if layer.router is None or rows >= SWEEP * experts:
            self._pager.prefetch(index, range(experts), sure=True)
        elif rows == 1:
            g, x = self._guess, self._buffers.x.part(n - 1)
            nothing = self._buffers.nothing
            self._backend.norm(x, nothing, layer.ffn_norm, self.config.rms_norm_eps, 1, g.x)
            self._backend.route(g.x, layer.router, experts, 1, g.topk_ids, g.share)
            self._pager.prefetch(index, g.topk_ids[0].tolist())

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
