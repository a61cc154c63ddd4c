"""Texts that are read as a whole: OpenAI's /v1/embeddings, and vLLM's /classify."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from cpumix.engine.classification import classification
from cpumix.engine.pooling import Pooling

from .errors import ApiError
from .inputs import Inputs, read_inputs
from .sampling_fields import refuse_unsupported
from .served_model import ServedModel
from .stamp import Stamp

MAX_TEXTS = 2048  # OpenAI's
VECTOR_FORMATS = ("float", "base64")
Floats = NDArray[np.float32]


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """The fields of a request."""

    input: Inputs
    model: str | None = None
    encoding_format: str | None = None
    pooling: str | None = None
    """"mean" or "last"; OpenAI has no such field."""
    dimensions: int | None = None  # known, and not supported
    user: str | None = None


class ClassifyRequest(msgspec.Struct, kw_only=True):
    """The fields of a request."""

    input: Inputs
    model: str | None = None
    user: str | None = None


class Embedded:
    """Texts to read, and the shape of the answer."""

    kind: ClassVar[type[EmbeddingRequest]] = EmbeddingRequest

    def __init__(self, served: ServedModel, fields: EmbeddingRequest) -> None:
        """Read a request; slow, not for the event loop. Raises ApiError, ConfigError."""
        self._served, self.pooling = served, served.model.find_pooling(fields.pooling)
        refuse_unsupported(fields, "dimensions")
        self._format = fields.encoding_format or "float"
        if self._format not in VECTOR_FORMATS:
            raise ApiError(
                400,
                f"encoding_format: expected {' or '.join(VECTOR_FORMATS)}, found another.",
                param="encoding_format",
            )
        self.prompts = _read(served, fields.input, classified=False)

    def whole(self, found: Sequence[Floats]) -> dict[str, Any]:
        """Return the answer; `found` is a vector (hidden_size,) for each prompt."""
        data = [
            {"object": "embedding", "index": i, "embedding": self._encode(vector)}
            for i, vector in enumerate(found)
        ]
        name = self._served.name
        return {"object": "list", "data": data, "model": name, "usage": _usage(self.prompts)}

    def _encode(self, vector: Floats) -> Any:
        if self._format == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        return vector.tolist()


class Classified:
    """Texts to label, and the shape of the answer."""

    kind: ClassVar[type[ClassifyRequest]] = ClassifyRequest
    pooling = Pooling.SCORE

    def __init__(
        self, served: ServedModel, fields: ClassifyRequest, stamp: Stamp | None = None
    ) -> None:
        """Read a request; slow, not for the event loop. Raises ApiError, ConfigError."""
        self._served, self._stamp = served, stamp or Stamp()
        served.model.check_classifies()
        self.prompts = _read(served, fields.input, classified=True)

    def whole(self, found: Sequence[Floats]) -> dict[str, Any]:
        """Return the answer; `found` has logits (labels,) for each prompt."""
        config, data = self._served.model.config, []
        for i, (logits, ids) in enumerate(zip(found, self.prompts, strict=True)):
            made = classification(config, logits, len(ids))
            data.append(
                {
                    "index": i,
                    "label": made.label,
                    "probs": made.probabilities.tolist(),
                    "num_classes": len(config.labels),
                }
            )
        return {
            "id": self._stamp.identity("classify-"),
            "object": "list",
            "created": self._stamp.created,
            "model": self._served.name,
            "labels": [*config.labels],
            "data": data,
            "usage": _usage(self.prompts) | {"completion_tokens": 0},
        }


def _read(served: ServedModel, given: Inputs, *, classified: bool) -> list[list[int]]:
    prompts = read_inputs(served, given, "input", MAX_TEXTS, whole=True)
    if given == "" or (isinstance(given, list) and "" in given):
        raise ApiError(400, "input: expected some text, found an empty one.", param="input")
    for ids in prompts:
        served.check_length(ids, served.model.context, "input")
    return [served.model.tokens_of(ids, classified=classified) for ids in prompts]


def _usage(prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    count = sum(map(len, prompts))
    return {"prompt_tokens": count, "total_tokens": count}
