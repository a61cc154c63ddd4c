"""OpenAI's /v1/completions: go on with texts as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cpumix.engine.events import Event, Finish, Token
from cpumix.engine.sequence import Request

from .choice import Choice
from .errors import ApiError
from .inputs import Inputs, read_inputs
from .sampling_fields import SamplingFields, check_max_tokens, refuse_unsupported
from .served_model import ServedModel
from .stamp import Stamp
from .usage import FINGERPRINT, FINISH_REASONS, legacy_logprobs, timings, usage

DEFAULT_TOKENS = 16  # OpenAI's
MAX_PROMPTS = 64
MAX_LOGPROBS = 5


class CompletionRequest(SamplingFields, kw_only=True):
    """The fields of a request."""

    prompt: Inputs
    """A text, or tokens, or several of either."""
    logprobs: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None


class Completion:
    """One request, and the shape of its answer."""

    kind = CompletionRequest

    def __init__(
        self,
        service: ServedModel,
        fields: CompletionRequest,
        salt: bytes = b"",
        stamp: Stamp | None = None,
    ) -> None:
        """Read a request; slow, not for the event loop. Raises ApiError, ConfigError."""
        self.fields, self._service = fields, service
        self._stamp = stamp or Stamp()
        self._id = self._stamp.identity("cmpl-")
        refuse_unsupported(fields, "echo", "suffix")
        if fields.best_of not in (None, fields.choices):
            raise ApiError(400, "best_of: expected it left out, or equal to n.", param="best_of")
        if fields.logprobs is not None and not 0 <= fields.logprobs <= MAX_LOGPROBS:
            raise ApiError(
                400,
                f"logprobs: expected 0 to {MAX_LOGPROBS}, found {fields.logprobs}.",
                param="logprobs",
            )
        check_max_tokens("max_tokens", fields.max_tokens)
        prompts = read_inputs(service, fields.prompt, "prompt", MAX_PROMPTS)
        self._count = len(prompts)
        params = fields.to_params(service.defaults, logprobs=fields.logprobs)
        tokens = DEFAULT_TOKENS if fields.max_tokens is None else fields.max_tokens
        self.requests: list[Request] = [
            service.request(
                ids, params.seeded(index), tokens, salt=salt, continuing=True, param="prompt"
            )
            for index, ids in enumerate(ids for ids in prompts for _ in range(fields.choices))
        ]
        self._offsets = [0] * len(self.requests)

    def chunks(self, index: int, event: Event, choice: Choice) -> Iterator[dict[str, Any]]:
        """Yield what a stream tells of an event."""
        if isinstance(event, Token):
            if event.text or event.log_probability:
                yield self._body([self._entry(index, event.text, [event], None)])
        elif isinstance(event, Finish):
            reason = FINISH_REASONS.get(choice.finish, "stop")
            yield self._body([self._entry(index, event.text, [], reason)])

    def opening(self) -> Iterator[dict[str, Any]]:
        """Yield what a stream begins with: nothing."""
        yield from ()

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return an answer that is not streamed."""
        entries = [
            self._entry(i, choice.text, choice.tokens, FINISH_REASONS.get(choice.finish, "stop"))
            for i, choice in enumerate(choices)
        ]
        return self._body(entries) | self.numbers(choices)

    def last(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return the chunk with the numbers, which ends a stream."""
        return self._body([]) | self.numbers(choices)

    def numbers(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return tokens and times."""
        return {
            "usage": usage(choices, self._count),
            "timings": timings(choices[0]),
            "seed": choices[0].seed,
        }

    def _entry(
        self, index: int, text: str, tokens: Sequence[Token], finish: str | None
    ) -> dict[str, Any]:
        logprobs = None
        if self.fields.logprobs is not None:
            tokenizer = self._service.model.tokenizer
            logprobs = legacy_logprobs(tokens, tokenizer, self._offsets[index])
            self._offsets[index] += sum(map(len, logprobs["tokens"]))
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _body(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._stamp.created,
            "model": self._service.name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }
