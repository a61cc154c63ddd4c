"""What lines may ask for, by the `url` that OpenAI's batches name it by.

A new one is a file like `texts.py` and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cpumix.api.served_model import ServedModel
from cpumix.api.stamp import Stamp

from . import readings, texts
from .pieces import Piece
from .settings import Settings


class LineWork(Protocol):
    """What a body asks for: pieces of work, and the answer when they are done."""

    passed_over: list[str]
    """Fields that are not known."""

    @property
    def pieces(self) -> list[Piece]:
        """What the engine has to do."""

    def answer(self) -> dict[str, Any]:
        """Return the body of the answer."""


Ask = Callable[[ServedModel, Settings, Mapping[str, Any], str, Stamp], LineWork]
"""From a body, and the key of its line; raises ApiError and ConfigError."""

URLS: dict[str, Ask] = {
    "/v1/chat/completions": texts.ask_chat,
    "/v1/completions": texts.ask_completion,
    "/v1/embeddings": readings.ask_embeddings,
    "/classify": readings.ask_labels,
}
