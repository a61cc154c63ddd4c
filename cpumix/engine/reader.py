"""Texts that are read as a whole: their vectors, and their labels."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.store.reader import ModelFile

from .classification import Classification, classification
from .engine import Engine
from .job import Floats
from .pooling import Pooling, find_pooling
from .reading import Reading
from .requests import Requests

AT_ONCE = 256  # texts that the engine knows of: a list of a million makes it no slower
Texts = Iterable[str | Sequence[int]]
Progress = Callable[[int, int], None]


class Reader:
    """What `Model` does with texts that it does not go on with."""

    config: ModelConfig
    file: ModelFile
    _engine: Engine
    _requests: Requests

    def check_classifies(self) -> None:
        """Raise ConfigError for a model that is no classifier."""
        self._requests.check_classifies()

    def find_pooling(self, name: str | None) -> Pooling:
        """Return the pooling with this name, or else the model's own; see `find_pooling`."""
        return find_pooling(name, self.file.files)

    def tokens_of(self, text: str | Sequence[int], *, classified: bool = False) -> list[int]:
        """Return the tokens of a text that `embed` or, if `classified`, `classify` reads.

        Raises ConfigError for a text that is no text, or does not fit into the context.
        """
        return self._requests.of_text(text, classified=classified)

    def check_writes(self) -> None:
        """Raise ConfigError for a classifier, which has no language head."""
        self._requests.check_writes()

    def embed(
        self, texts: Texts, *, pooling: str | None = None, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """Return a vector of length one for each text, (texts, hidden_size).

        It is pooled from the hidden states after the last norm: the "mean" of those of all tokens,
        the tokenizer's own included, or the "last" one's; else as the model was trained, see
        `find_pooling`. A text may be given by its tokens. Its vector does not depend on the other
        texts. `progress` gets the texts done, and how many there are. Raises ConfigError for a
        text that is no text, or does not fit into the context.
        """
        kind = self.find_pooling(pooling)
        made = self._read(self._tokens(texts), kind, progress)
        return np.stack(made) if made else np.empty((0, self.config.hidden_size), np.float32)

    def classify(self, texts: Texts, *, progress: Progress | None = None) -> list[Classification]:
        """Return labels and probabilities of each text; see `embed`.

        Raises ConfigError for a model that is no classifier, too.
        """
        self.check_classifies()
        prompts = self._tokens(texts, classified=True)
        made = self._read(prompts, Pooling.SCORE, progress)
        return [
            classification(self.config, logits, len(ids))
            for logits, ids in zip(made, prompts, strict=True)
        ]

    def _tokens(self, texts: Texts, *, classified: bool = False) -> list[list[int]]:
        if isinstance(texts, str):
            raise ConfigError("texts: expected a list, found a single text. Put it in a list.")
        made: list[list[int]] = []
        given = list(texts)
        for number, one in enumerate(given, 1):
            try:
                made.append(self.tokens_of(one, classified=classified))
            except ConfigError as error:
                if len(given) == 1:
                    raise
                raise ConfigError(f"text {number}: {error.message}", error.option) from error
        return made

    def _read(
        self, prompts: Sequence[Sequence[int]], pooling: Pooling, progress: Progress | None
    ) -> list[Floats]:
        """Read texts side by side; return what comes of each."""
        ends: queue.SimpleQueue[tuple[int, Floats | BaseException]] = queue.SimpleQueue()

        def teller(index: int) -> Callable[[Floats | BaseException], None]:
            return lambda found: ends.put((index, found))

        jobs: dict[int, Reading] = {}
        made: dict[int, Floats] = {}
        waiting = iter(enumerate(prompts))
        try:
            while len(made) < len(prompts):
                for index, ids in islice(waiting, AT_ONCE - len(jobs)):
                    jobs[index] = self._engine.read(ids, pooling, teller(index))
                index, found = ends.get()
                del jobs[index]
                if isinstance(found, BaseException):
                    raise found
                made[index] = found
                if progress is not None:
                    progress(len(made), len(prompts))
        finally:
            for job in jobs.values():
                self._engine.loop.cancel(job)
        return [made[index] for index in range(len(prompts))]
