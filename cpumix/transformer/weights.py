"""The weights of the dense part, as the forward pass names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig, Role, tensor_name
from cpumix.experts import as_matrix
from cpumix.kernels.operands import TiledMatrix
from cpumix.quant.tiles import BLOCK
from cpumix.store import TensorEntry

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LayerWeights:
    """The dense part of one layer: D hidden size, Q query columns, K key columns, E experts."""

    index: int
    is_last: bool
    attn_norm: Floats  # (D,)
    wq: TiledMatrix  # (Q, D)
    wk: TiledMatrix  # (K, D)
    wv: TiledMatrix  # (K, D)
    wo: TiledMatrix  # (D, Q)
    ffn_norm: Floats  # (D,)
    router: Floats | None  # (D, E), experts as columns; None of a model without experts
    # What only some families have:
    qkv_bias: tuple[Floats, ...] | None  # (Q,), (K,), (K,)
    output_bias: Floats | None  # (D,)
    qk_norm: tuple[Floats, ...] | None  # of a head (head_dim,) each, or of all: (Q,), (K,)


class TensorSource(Protocol):
    """What tensors are taken from: a model file, or one in the making."""

    @property
    def config(self) -> ModelConfig:
        """Sizes of the model."""

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """How each is stored, by name."""

    def data(self, name: str) -> NDArray[np.uint8]:
        """Return a tensor's bytes."""


class Weights:
    """Matrices are views of the file; norms and routers are copies.

    These are made by the first pass, when the dense part is in memory: loading reads nothing.
    """

    def __init__(self, source: TensorSource) -> None:
        self._source, self._config = source, source.config

    @cached_property
    def embedding(self) -> TiledMatrix:
        """(V, D)."""
        return self._matrix(Role.EMBEDDING)

    @cached_property
    def layers(self) -> list[LayerWeights]:
        """All layers, first to last."""
        return [self.layer(i) for i in range(self._config.num_hidden_layers)]

    @cached_property
    def output(self) -> TiledMatrix:
        """The language head (V, D), which a classifier does not have."""
        return self.embedding if self._config.tie_word_embeddings else self._matrix(Role.OUTPUT)

    @cached_property
    def score(self) -> Floats:
        """The head of a classifier (L, D)."""
        data = self._source.data(tensor_name(Role.SCORE)).view(np.float32)
        return data.reshape(len(self._config.labels), -1).copy()

    @cached_property
    def output_norm(self) -> Floats:
        """The gain of the last norm (D,)."""
        return self._vector(Role.OUTPUT_NORM)

    def layer(self, index: int) -> LayerWeights:
        """Return one layer."""
        c = self._config
        return LayerWeights(
            index=index,
            is_last=index + 1 == self._config.num_hidden_layers,
            attn_norm=self._vector(Role.ATTN_NORM, index),
            wq=self._matrix(Role.WQ, index),
            wk=self._matrix(Role.WK, index),
            wv=self._matrix(Role.WV, index),
            wo=self._matrix(Role.WO, index),
            ffn_norm=self._vector(Role.FFN_NORM, index),
            router=self._router(index, self._config) if self._config.is_moe else None,
            qkv_bias=self._rows(index, Role.BQ, Role.BK, Role.BV) if c.qkv_bias else None,
            output_bias=self._rows(index, Role.BO)[0] if c.output_bias else None,
            qk_norm=self._rows(index, Role.Q_NORM, Role.K_NORM) if c.qk_norm else None,
        )

    def _matrix(self, role: Role, layer: int | None = None) -> TiledMatrix:
        tensor = self._source.tensors[name := tensor_name(role, layer)]
        return as_matrix(self._source.data(name), tensor, *tensor.shape)

    def _vector(self, role: Role, layer: int | None = None) -> Floats:
        """Copy a float32 vector, zero-padded to whole blocks, as the norm kernel reads it."""
        data = self._source.data(tensor_name(role, layer)).view(np.float32)
        out = np.zeros(-(-len(data) // BLOCK) * BLOCK, np.float32)
        out[: len(data)] = data
        return out

    def _rows(self, layer: int, *roles: Role) -> tuple[Floats, ...]:
        """Copy float32 vectors of one layer."""
        found = (self._source.data(tensor_name(role, layer)) for role in roles)
        return tuple(data.view(np.float32).copy() for data in found)

    def _router(self, layer: int, config: ModelConfig) -> Floats:
        """Copy a router, transposed, with columns for a multiple of 16 experts."""
        data = self._source.data(tensor_name(Role.ROUTER, layer)).view(np.float32)
        experts = config.num_local_experts
        out = np.zeros((config.hidden_size, -(-experts // 16) * 16), np.float32)
        out[:, :experts] = data.reshape(experts, -1).T
        return out
