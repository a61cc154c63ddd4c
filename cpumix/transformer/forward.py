"""The forward pass of a Mixtral (or, with one expert and no router, of a Mistral or Llama).

Letters: T tokens of a batch, R of them to the end of a layer, D hidden size, V vocabulary, L labels
of a classifier. What a row comes out as does not depend on the batch it came in with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import CpumixError
from cpumix.experts import ExpertPager
from cpumix.kernels.backend import Backend
from cpumix.kernels.operands import Matmul, MatmulGroup
from cpumix.kernels.rows import Rows
from cpumix.kv.pool import BlockPool
from cpumix.memory.sizes import PREFILL_TOKENS
from cpumix.store.reader import ModelFile

from .attention import Attention
from .batch import Batch, Step
from .buffers import Buffers
from .moe import MoE
from .prefetch import Prefetch
from .residual import ResidualStream
from .second_look import NotFinite, SecondLook, WatchedStream, is_finite
from .weights import LayerWeights, Weights

Floats = NDArray[np.float32]
OnLayer = Callable[[int], None]
PREFILL_CHUNK = PREFILL_TOKENS


class Transformer:
    """The layers of one model file, over one pool of keys and values."""

    def __init__(
        self,
        file: ModelFile,
        backend: Backend,
        pool: BlockPool,
        pager: ExpertPager,
        context: int,
        rows: int,
    ) -> None:
        """Make room for batches of up to `rows` tokens, of sequences of up to `context`."""
        self.config, self.rows = file.config, rows
        self._backend, self._pager, self._pool = backend, pager, pool
        self._weights = Weights(file)
        self._buffers = b = Buffers(self.config, rows, pager.experts)
        self._stream = ResidualStream(backend, b.x, b.h, self.config.rms_norm_eps)
        self._attention = Attention(self.config, backend, b, pool, context)
        self._moe = MoE(self.config, backend, b, pager)
        self._prefetch = Prefetch(self.config, backend, pager)
        self._second_look = SecondLook(file, b, pool)

    def forward(self, batch: Batch, on_layer: OnLayer | None = None) -> list[Floats]:
        """Run a batch; return what each step wants: logits (N, V), or hidden states (N, D).

        `on_layer` gets the number of layers done, after each. Raises FormatError when the file
        cannot be read any more. What comes may be NaN or infinite: see `find_faults`.
        """
        h = self._pass(batch, self._stream, on_layer)
        logits = self._logits(h, batch.num_logits - batch.num_hidden)
        hidden = h.values[: batch.num_logits, : self.config.hidden_size]
        self._pager.check()
        pairs = zip(batch.steps, batch.wanted_of_steps, strict=True)
        return [hidden[rows].copy() if step.hidden else logits[rows] for step, rows in pairs]

    def find_faults(self, batch: Batch, rows: list[Floats]) -> dict[int, CpumixError]:
        """Return why what `forward` has returned is NaN or infinite, by the step that it is of.

        What one step meets does no other one harm. Whether all are finite takes no time to see; the
        reason is found by running the step once more, which gives the same numbers.
        """
        return {
            i: self._explain(step)
            for i, (step, own) in enumerate(zip(batch.steps, rows, strict=True))
            if not is_finite(own)
        }

    def _pass(self, batch: Batch, x: ResidualStream, on_layer: OnLayer | None = None) -> Rows:
        """Run a batch through all layers and the last norm."""
        full = self._pool.share_touched if self._pager.bounded else 0.0
        self._pager.begin(int(batch.positions[0]), batch.ids.tolist(), full)
        self._pool.touch(batch.slots)
        self._attention.start(batch)
        x.start(self._embed(batch))  # [T, D]
        for layer in self._layers(on_layer):
            h = x.norm(layer.attn_norm)  # [T, D]
            x.add(self._attention(layer, h, batch))  # [R, D]
            h = x.norm(layer.ffn_norm)  # [R, D]
            ahead = partial(self._look_ahead, layer, batch, x)
            x.add(self._moe(layer, h, x.count, ahead))  # [R, D]
        return x.norm(self._weights.output_norm)  # [R, D]

    def _explain(self, step: Step) -> CpumixError:
        """Run a step again, by itself, and return where its numbers go wrong."""
        batch, b = Batch([step]), self._buffers
        watched = WatchedStream(self._backend, b.x, b.h, self.config.rms_norm_eps)
        try:
            self._pass(batch, watched)
        except NotFinite as found:
            return self._second_look.explain(found, batch)
        return self._second_look.explain_logits()

    def close(self) -> None:
        """Let go of the views of the file, so that it can be closed."""
        del self._weights, self._attention, self._moe, self._prefetch

    def _logits(self, h: Rows, count: int) -> Floats:
        """Return the logits (count, V) of the first rows of h."""
        if not count:
            return np.empty((0, self.config.vocab_size), np.float32)
        weight = self._weights.output
        out = np.empty((count, 16 * weight.tiles.shape[0]), np.float32)
        self._backend.multiply(MatmulGroup([Matmul(weight, h, 0, count, out)]))
        return out[:, : self.config.vocab_size]

    def scores(self, hidden: Floats) -> Floats:
        """Return a classifier's logits (L,) of a text by its last token's hidden state (D,).

        Sums are of float64, label by label. Raises FormatError when they are not finite.
        """
        out = np.empty(len(self._weights.score), np.float32)
        for i, weight in enumerate(self._weights.score):
            out[i] = np.multiply(weight, hidden, dtype=np.float64).sum()
        self._pager.check()
        if not is_finite(out):
            raise self._second_look.explain_logits()
        return out

    def _embed(self, batch: Batch) -> Floats:
        """Return the embeddings of a batch's tokens [T, D]."""
        return self._backend.look_up(self._weights.embedding, batch.ids)

    def _layers(self, on_layer: OnLayer | None) -> Iterator[LayerWeights]:
        """Yield all layers, and tell when each is done."""
        for layer in self._weights.layers:
            yield layer
            if on_layer is not None:
                on_layer(layer.index + 1)

    def _look_ahead(self, layer: LayerWeights, batch: Batch, x: ResidualStream) -> None:
        """Let the next layer's experts come while this one's compute."""
        if self._pager.wants_prefetch and not layer.is_last:
            following = self._weights.layers[layer.index + 1]
            rows = batch.rows_through(following.is_last)
            self._prefetch(following, x.x.part(x.count - rows), rows)
