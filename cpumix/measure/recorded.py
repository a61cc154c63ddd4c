"""A model's predictions kept, so that a reference runs once however many models are compared."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .perplexity import LanguageModel


class Recorded:
    """A model that computes a window once; its logits wait in a temporary file.

    Leaving its context deletes the file.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.config, self.tokenizer, self._model = model.config, model.tokenizer, model
        self._file = tempfile.TemporaryFile(prefix="cpumix-")
        self._kept: dict[tuple[int, ...], tuple[int, NDArray[np.int32] | None]] = {}
        self.experts: NDArray[np.int32] | None = None
        """Those of the last window, if the model tells: see `routing.RoutedModel`."""

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the model's logits (len(ids), vocab_size)."""
        key = tuple(ids)
        if key not in self._kept:
            found = np.ascontiguousarray(self._model.logits(ids), np.float32)
            self._kept[key] = self._file.seek(0, 2), getattr(self._model, "experts", None)
            self._file.write(found.data)
            self._file.flush()
        offset, self.experts = self._kept[key]
        return np.memmap(self._file, np.float32, "r", offset, (len(ids), self.config.vocab_size))

    def __enter__(self) -> Recorded:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Delete what was kept."""
        self._file.close()
