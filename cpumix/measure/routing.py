"""Which experts each token of a text went through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.experts import Budget, ExpertPager
from cpumix.experts.lease import ReadyExperts
from cpumix.model import Model
from cpumix.store import ModelFile
from cpumix.tokenizer import Tokenizer


class RoutedModel:
    """A model that also tells which experts the tokens of its last text took; a context manager.

    `options` are those of `cpumix.load`. One text at a time.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        self.experts: NDArray[np.int32] | None = None
        """(layers, tokens, experts per token) of the last text, None for a model without router."""
        self._noted: list[list[NDArray[np.int32]]] = []
        self.model = Model(path, make_pager=self._make_pager, **options)
        self.config: ModelConfig = self.model.config
        self.tokenizer: Tokenizer = self.model.tokenizer

    def _make_pager(self, file: ModelFile, budget: Budget | None, **options: Any) -> ExpertPager:
        self._noted = [[] for _ in range(file.config.num_hidden_layers)]
        return _NotingPager(file, budget, self._noted, **options)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits (len(ids), vocab_size) of a full causal pass over `ids`."""
        for layer in self._noted:
            layer.clear()
        found = self.model.logits(ids)
        if self.config.is_moe:
            self.experts = np.stack([np.concatenate(layer) for layer in self._noted])
        return found

    def __enter__(self) -> RoutedModel:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the model."""
        self.model.close()


class _NotingPager(ExpertPager):
    """A pager that notes which experts it is asked for, by layer, in the order of the tokens."""

    def __init__(
        self,
        file: ModelFile,
        budget: Budget | None,
        noted: list[list[NDArray[np.int32]]],
        **options: Any,
    ) -> None:
        super().__init__(file, budget, **options)
        self._noted, self._experts = noted, file.config.num_local_experts

    def lease(
        self, layer: int, used: Sequence[int], topk_ids: NDArray[np.int32]
    ) -> AbstractContextManager[Iterable[ReadyExperts]]:
        """Lease the `used` experts of a layer, and note the choices (T, A).

        A low copy counts as the expert that it is of.
        """
        self._noted[layer].append(topk_ids % self._experts)
        return super().lease(layer, used, topk_ids)
