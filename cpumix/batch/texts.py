"""Lines that ask for texts: OpenAI's chats and completions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cpumix.api.body import to_struct
from cpumix.api.chat import Chat, ChatRequest
from cpumix.api.completions import Completion, CompletionRequest
from cpumix.api.errors import ApiError
from cpumix.api.served_model import ServedModel
from cpumix.api.stamp import Stamp

from .pieces import Piece, WrittenText
from .settings import Settings


class AskedTexts:
    """The texts of one line."""

    def __init__(self, request: Chat | Completion, passed_over: Sequence[str]) -> None:
        self._request, self.passed_over = request, list(passed_over)
        self.texts = [WrittenText(each) for each in request.requests]

    @property
    def pieces(self) -> list[Piece]:  # noqa: D102
        return [*self.texts]

    def answer(self) -> dict[str, Any]:
        """Return the answer without what is another each time: times, and what was cached."""
        body = self._request.whole([text.choice for text in self.texts])
        body.pop("timings")
        body["usage"].pop("prompt_tokens_details")
        return body


def ask_chat(
    model: ServedModel, settings: Settings, body: Mapping[str, Any], key: str, stamp: Stamp
) -> AskedTexts:
    """Read the body of a chat."""
    fields, unknown = to_struct(dict(body), ChatRequest)
    _complete(fields, settings, key, limited=fields.max_completion_tokens is not None)
    return AskedTexts(Chat(model, fields, stamp=stamp), unknown)


def ask_completion(
    model: ServedModel, settings: Settings, body: Mapping[str, Any], key: str, stamp: Stamp
) -> AskedTexts:
    """Read the body of a completion."""
    fields, unknown = to_struct(dict(body), CompletionRequest)
    _complete(fields, settings, key, limited=False)
    return AskedTexts(Completion(model, fields, stamp=stamp), unknown)


def _complete(
    fields: ChatRequest | CompletionRequest, settings: Settings, key: str, limited: bool
) -> None:
    """Fill in what the line leaves to the job."""
    if fields.stream:
        raise ApiError(400, "stream: expected it left out, as a line is answered as a whole.")
    if fields.max_tokens is None and not limited:
        fields.max_tokens = settings.max_tokens
    if fields.seed in (None, -1):  # what would draw one
        fields.seed = settings.seed_of(key)
