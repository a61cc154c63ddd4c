"""Says where a pass met a number that is none, by running it once more and looking.

NaN and infinity stay what they are through the whole model, so that the ordinary pass needs to look
only at its end. They come from damaged weights, from keys or values that the KV cache's format
cannot hold, or from weights whose sums exceed float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ATTENTION_MATRICES, BIASES, Role, tensor_name
from cpumix.errors import ConfigError, CpumixError, FormatError, quoted
from cpumix.kernels.rows import Rows
from cpumix.kv.pool import BlockPool
from cpumix.quant.kv import KV_LARGEST
from cpumix.store.matrices import matrices_of
from cpumix.store.reader import ModelFile

from .batch import Batch
from .buffers import Buffers
from .residual import ResidualStream

Floats = NDArray[np.float32]
_ATTENTION = (*ATTENTION_MATRICES, *BIASES, Role.Q_NORM, Role.K_NORM)


def is_finite(x: Floats) -> bool:
    """Whether no number of x is NaN or infinite."""
    return math.isfinite(float(x.max(initial=0)) - float(x.min(initial=0)))


class NotFinite(Exception):
    """A number that is none, first seen by a norm; a layer has two, and one follows the last."""

    def __init__(self, norm: int, was_finite: bool) -> None:
        super().__init__()
        self.norm = norm
        self.was_finite = was_finite
        """Whether the norm itself made it."""


class WatchedStream(ResidualStream):
    """A residual stream that raises `NotFinite`."""

    _norms = 0

    def norm(self, gain: Floats) -> Rows:
        """Look at the rows before and after."""
        h = super().norm(gain)
        was_finite = is_finite(self.x.values[: self.count])
        if not was_finite or not is_finite(h.values[: self.count]):
            raise NotFinite(self._norms, was_finite)
        self._norms += 1
        return h


class SecondLook:
    """Turns `NotFinite` into an error; what the pass left in the buffers must still be there."""

    def __init__(self, file: ModelFile, buffers: Buffers, pool: BlockPool) -> None:
        self._file, self._buffers, self._pool = file, buffers, pool

    def explain(self, found: NotFinite, batch: Batch) -> CpumixError:
        """Return the error for what a second pass of the batch has found."""
        layers = self._file.config.num_hidden_layers
        # What a norm reads was made by the half of a layer before it.
        layer, half = divmod(found.norm - (not found.was_finite), 2)
        if found.was_finite and layer == layers:
            return self._weights("the last norm", [tensor_name(Role.OUTPUT_NORM)])
        if found.norm == 0 and not found.was_finite:
            return self._weights("the embeddings", [tensor_name(Role.EMBEDDING)])
        if found.was_finite:
            name = tensor_name((Role.ATTN_NORM, Role.FFN_NORM)[half], layer)
            return self._weights(f"layer {layer}, a norm", [name])
        if half == 0:
            names = [tensor_name(role, layer) for role in _ATTENTION]
            error = self._cache_overflow(layer, batch)
            return error or self._weights(f"layer {layer}, attention", names)
        used = np.unique(self._buffers.topk_ids[: batch.rows_through(layer + 1 == layers)])
        return self._weights(f"layer {layer}, experts", self._experts(layer, used.tolist()))

    def _experts(self, layer: int, experts: Iterable[int]) -> list[str]:
        names = [self._file.expert_name(layer, e) for e in experts]
        return [tensor_name(Role.ROUTER, layer), *names]

    def explain_logits(self) -> CpumixError:
        """Return the error for logits that are not finite, though what they are made of is."""
        config = self._file.config
        head = Role.EMBEDDING if config.tie_word_embeddings else Role.OUTPUT
        return self._weights("the head", [tensor_name(Role.SCORE if config.labels else head)])

    def _cache_overflow(self, layer: int, batch: Batch) -> CpumixError | None:
        """Return the error that keys or values exceed what the KV cache holds, if they do.

        Those of this batch are at hand; of earlier ones it holds only that they were not kept.
        """
        b, config, kv = self._buffers, self._file.config, self._pool.kv
        kept = [rows.values[: len(batch), : config.kv_size] for rows in (b.k, b.v)]
        most = float(np.max([np.abs(x).max() for x in kept]))
        if kv not in KV_LARGEST or not np.isfinite(most):
            return None
        found = f"{most:.3g}"
        if most <= KV_LARGEST[kv]:
            if self._pool.is_finite(layer, batch.blocks):
                return None
            if error := self._earlier_weights(layer):
                return error
            found = "larger ones"
        return ConfigError(
            f"KV cache: layer {layer}: expected keys and values up to {KV_LARGEST[kv]:.0f}, which "
            f"{kv} holds, found {found}.",
            "Use --kv f32.",
        )

    def _earlier_weights(self, layer: int) -> CpumixError | None:
        """Return the error that what only some tokens use before a layer is damaged, if it is."""
        if layer == 0:
            return self._damaged("the embeddings", [tensor_name(Role.EMBEDDING)])
        copies = 1 if self._file.formats.low is None else 2
        experts = range(copies * self._file.config.num_local_experts)
        return self._damaged(f"layer {layer - 1}, experts", self._experts(layer - 1, experts))

    def _weights(self, place: str, names: Iterable[str]) -> CpumixError:
        """Return the error that one of these tensors is damaged; else that sums grew too large."""
        return self._damaged(place, names) or FormatError(
            f'"{self._file.path}": {place}: expected sums that float32 holds, found larger ones. '
            "The checkpoint's weights are damaged: download it again."
        )

    def _damaged(self, place: str, names: Iterable[str]) -> CpumixError | None:
        tensors = self._file.tensors
        for tensor in (tensors[name] for name in names if name in tensors):
            if not all(matrix.is_finite() for matrix in matrices_of(self._file, tensor)):
                return FormatError(
                    f'"{self._file.path}": {place}: expected finite weights in use, found NaN or '
                    f"infinity in tensor {quoted(tensor.name)}. Convert the checkpoint again."
                )
        return None
