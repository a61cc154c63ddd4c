"""Lines that ask for what a text is read as: embeddings, and labels of classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cpumix.api.body import to_struct
from cpumix.api.readings import Classified, ClassifyRequest, Embedded, EmbeddingRequest, Floats
from cpumix.api.served_model import ServedModel
from cpumix.api.stamp import Stamp
from cpumix.engine.engine import Engine
from cpumix.engine.pooling import Pooling
from cpumix.engine.reading import Reading

from .pieces import OnEnd, OnToken, Piece
from .settings import Settings


class ReadText:
    """A text that is read, and not gone on with."""

    def __init__(self, ids: Sequence[int], pooling: Pooling) -> None:
        self.ids, self._pooling = ids, pooling
        self.reuses = pooling.reuses
        self._job: Reading | None = None
        self.found: Floats | None = None

    @property
    def cached_tokens(self) -> int:  # noqa: D102
        return self._job.cached if self._job else 0

    def begin(self, engine: Engine, on_token: OnToken, on_end: OnEnd) -> None:  # noqa: D102
        def hear(found: Floats | BaseException) -> None:
            if isinstance(found, BaseException):
                on_end(found)
            else:
                self.found = found
                on_end(None)

        self._job = engine.read(self.ids, self._pooling, hear)


class AskedReadings:
    """The texts of one line."""

    def __init__(self, request: Embedded | Classified, passed_over: Sequence[str]) -> None:
        self._request, self.passed_over = request, list(passed_over)
        self.texts = [ReadText(ids, request.pooling) for ids in request.prompts]

    @property
    def pieces(self) -> list[Piece]:  # noqa: D102
        return [*self.texts]

    def answer(self) -> dict[str, Any]:
        """Return the answer."""
        return self._request.whole([text.found for text in self.texts if text.found is not None])


def ask_embeddings(
    model: ServedModel, settings: Settings, body: Mapping[str, Any], key: str, stamp: Stamp
) -> AskedReadings:
    """Read the body of a request for embeddings."""
    fields, unknown = to_struct(dict(body), EmbeddingRequest)
    return AskedReadings(Embedded(model, fields), unknown)


def ask_labels(
    model: ServedModel, settings: Settings, body: Mapping[str, Any], key: str, stamp: Stamp
) -> AskedReadings:
    """Read the body of a request for labels."""
    fields, unknown = to_struct(dict(body), ClassifyRequest)
    return AskedReadings(Classified(model, fields, stamp), unknown)
