"""One line of a batch: what it asks for, and the line that answers it.

A line is a request as in OpenAI's batch files, `{"custom_id", "method", "url", "body"}`, or plain:
`{"prompt": TEXT}` or `{"messages": [...]}`, which may have fields of sampling, and whose other
fields are kept in the answer. What is wrong with a line is told in its answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cpumix.api.body import MAX_BODY, parse_object
from cpumix.api.errors import ApiError, failure, openai_error
from cpumix.api.sampling_fields import SAME_NAMES
from cpumix.api.served_model import ServedModel
from cpumix.errors import BudgetError, ConfigError, FormatError, quoted
from cpumix.units import format_size

from .pieces import Piece
from .settings import PLAIN_TOKENS, RESULT_FIELDS, FixedStamp, Settings
from .urls import URLS, LineWork

PLAIN_FIELDS = (*SAME_NAMES, *"max_tokens seed stop logit_bias repetition_penalty".split())
FATAL = (FormatError, BudgetError, OSError, MemoryError)  # not one line's fault


class Line:
    """A line under way: `pieces` is the work that it needs, `answer` what comes of it."""

    def __init__(
        self, place: int, data: bytes | None, model: ServedModel, settings: Settings
    ) -> None:
        """Read a line; None is one that is too long. Raises nothing: the answer tells."""
        self._place, self._raw = place, dict[str, Any]()
        self._asked: LineWork | None = None
        self._refused: ApiError | None = None
        try:
            if data is None:
                raise ApiError(413, f"line: expected at most {format_size(MAX_BODY)}, found more.")
            self._raw = parse_object(data, "line")
            self._asked = self._ask(model, settings)
        except ApiError as error:
            self._refused = error
        except ConfigError as error:
            self._refused = ApiError(400, str(error))

    @property
    def pieces(self) -> list[Piece]:
        """What the engine has to do."""
        return [] if self._asked is None else self._asked.pieces

    @property
    def passed_over(self) -> list[str]:
        """Fields of a body that are not known."""
        return [] if self._asked is None else self._asked.passed_over

    def answer(self, errors: Iterable[BaseException]) -> dict[str, Any]:
        """Return the answer, or what is wrong; `errors` are those of its pieces.

        Raises an error that is not this line's: what cannot be read now may be read later.
        """
        error, body = self._refused, None
        for found in errors:
            if isinstance(found, FATAL) or not isinstance(found, Exception):
                raise found
            error = error or failure(found, alive=True)
        if error is None and self._asked is not None:
            body = self._asked.answer()
        return self._plain(body, error) if self._is_plain else self._as_openai(body, error)

    @property
    def _is_request(self) -> bool:
        return "body" in self._raw or "url" in self._raw

    @property
    def _is_plain(self) -> bool:
        return ("prompt" in self._raw or "messages" in self._raw) and not self._is_request

    @property
    def _key(self) -> str:
        """What the line is known by: its seed and its ids depend on it."""
        custom_id = self._raw.get("custom_id")
        return f"{self._place}" if custom_id is None else f"id {custom_id}"

    def _ask(self, model: ServedModel, settings: Settings) -> LineWork:
        raw = self._raw
        if self._is_plain:
            url, body = self._plain_body(model, settings)
        elif self._is_request:
            url, body = self._request()
        else:
            raise ApiError(400, "line: expected a url with a body, or a prompt, found neither.")
        if not isinstance(raw.get("custom_id"), str | None) and self._is_request:
            raise ApiError(400, "custom_id: expected a text, found something else.")
        return URLS[url](model, settings, body, self._key, FixedStamp(f"{self._place} {self._key}"))

    def _request(self) -> tuple[str, dict[str, Any]]:
        url, body = self._raw.get("url"), self._raw.get("body")
        if (method := self._raw.get("method", "POST")) != "POST":
            raise ApiError(400, f"method: expected POST, found {quoted(method)}.")
        if not isinstance(url, str) or url not in URLS:
            known = ", ".join(URLS)
            raise ApiError(404, f"url: expected one of {known}, found {quoted(url)}.")
        if not isinstance(body, dict):
            raise ApiError(400, "body: expected a JSON object, found something else.")
        return url, body

    def _plain_body(self, model: ServedModel, settings: Settings) -> tuple[str, dict[str, Any]]:
        raw = self._raw
        body = {name: raw[name] for name in PLAIN_FIELDS if raw.get(name) is not None}
        if settings.max_tokens is None:
            body.setdefault("max_tokens", PLAIN_TOKENS)
        messages, prompt = raw.get("messages"), raw.get("prompt")
        if messages is None:
            if not isinstance(prompt, str):
                raise ApiError(400, "prompt: expected a text, found something else.")
            if not prompt.strip():
                raise ApiError(400, "prompt: expected some text, found white space.")
            if settings.raw or not model.has_chat_template:
                return "/v1/completions", body | {"prompt": prompt}
            messages = [{"role": "user", "content": prompt}]
        system = [{"role": "system", "content": settings.system}] if settings.system else []
        given = messages if isinstance(messages, list) else [messages]
        return "/v1/chat/completions", body | {"messages": [*system, *given]}

    def _plain(self, body: Mapping[str, Any] | None, error: ApiError | None) -> dict[str, Any]:
        kept = {name: value for name, value in self._raw.items() if name not in RESULT_FIELDS}
        values: list[Any] = [None, None, None, None, error.message if error else None]
        if body is not None:
            (choice,) = body["choices"]
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            usage = body["usage"]
            values[:4] = text, choice["finish_reason"], *map(usage.get, RESULT_FIELDS[2:4])
        return kept | dict(zip(RESULT_FIELDS, values, strict=True))

    def _as_openai(self, body: Mapping[str, Any] | None, error: ApiError | None) -> dict[str, Any]:
        stamp = FixedStamp(f"answer {self._place} {self._key}")
        answer: dict[str, Any] = {
            "id": stamp.identity("batch_req_"),
            "custom_id": self._raw.get("custom_id"),
            "response": None,
            "error": None,
        }
        if error is not None:
            answer["error"] = {"code": error.code or "invalid_request", "message": error.message}
            body = openai_error(error) if self._is_request else None
        if body is not None:
            answer["response"] = {
                "status_code": error.status if error else 200,
                "request_id": stamp.identity("req_"),
                "body": body,
            }
        return answer


def encode(answer: Mapping[str, Any]) -> bytes:
    """Return an answer as a line of a file."""
    return msgspec.json.encode(answer) + b"\n"
