"""Text Generation Inference's routes, which `huggingface_hub.InferenceClient` asks.

Parameters, texts and codes of errors, and finish reasons are those of its version 3. Temperature 0
and top_p 1 are accepted beside.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cpumix.api.body import decode, refuse
from cpumix.api.choice import Choice
from cpumix.api.errors import ApiError, tgi_error
from cpumix.engine.events import Finish, Token
from cpumix.engine.sequence import Request as EngineRequest
from cpumix.sampling import SamplingParams
from cpumix.sampling.params import ALL

from . import sse
from .leaving import while_connected
from .service import Service
from .wire import read_body, warnings
from .writing import PromptProgress, Writing

MAX_STOPS = 4
MAX_TOP_TOKENS = 5
DEFAULT_TOKENS = 100
TGI_REASONS = {
    "eos": "eos_token",
    "stop": "stop_sequence",
    "length": "length",
    "context": "length",
}


class Parameters(msgspec.Struct, kw_only=True):
    """How a text is to be."""

    best_of: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: int | None = None
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: int | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: int | None = None
    top_n_tokens: int | None = None
    grammar: dict[str, Any] | None = None
    adapter_id: str | None = None


class GenerateRequest(msgspec.Struct, kw_only=True):
    """The fields of a request."""

    inputs: str
    parameters: Parameters = msgspec.field(default_factory=Parameters)
    stream: bool = False


class TextRequest:
    """One request, and the shape of its answer."""

    def __init__(
        self, service: Service, fields: GenerateRequest, salt: bytes, streams: bool
    ) -> None:
        """Read a request; slow, not for the event loop. Raises ApiError, ConfigError."""
        self.fields, self.service, self.streams = fields, service, streams
        self._given = given = fields.parameters
        refuse(
            {
                "watermark": given.watermark,
                "decoder_input_details": given.decoder_input_details,
                "adapter_id": given.adapter_id,
                "best_of": None if given.best_of == 1 else given.best_of,
            }
        )
        if not fields.inputs:
            raise ApiError(422, "Input validation error: `inputs` cannot be empty")
        params = to_params(given, tells_tokens=streams or given.details)
        # Control tokens that are written out, as in "<s>[INST]", are tokens here.
        ids = service.model.tokenizer.encode(fields.inputs, control=True)
        if given.truncate is not None:
            ids = ids[-given.truncate :]
        most = DEFAULT_TOKENS if given.max_new_tokens is None else given.max_new_tokens
        context = service.model.context
        if len(ids) + most > context:
            raise ApiError(
                422,
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= "
                f"{context}. Given: {len(ids)} `inputs` tokens and {most} `max_new_tokens`",
            )
        self.request: EngineRequest = service.request(
            ids, params, most, salt=salt, continuing=True, keep_stop=True, param="inputs"
        )

    def whole(self, choice: Choice) -> dict[str, Any]:
        """Return an answer that is not streamed."""
        answer: dict[str, Any] = {"generated_text": self._text(choice)}
        if self._given.details:
            tokens = [self._token(token) for token in choice.tokens]
            answer["details"] = self._details(choice) | {"prefill": [], "tokens": tokens}
            if self._given.top_n_tokens:
                answer["details"]["top_tokens"] = [self._top(token) for token in choice.tokens]
        return answer

    async def stream(self, writing: Writing) -> AsyncIterator[str]:
        """Yield the events of a stream: the last token comes with the numbers of the text."""
        (choice,), held = writing.choices, None
        try:
            async for _, event in writing.events():
                if isinstance(event, PromptProgress):
                    yield sse.comment(f"prompt {event.done}/{event.all}")
                elif isinstance(event, Token):
                    if held is not None:
                        yield sse.data(self._event(held, len(choice.tokens) - 1))
                    held = event
                elif isinstance(event, Finish):
                    last = self._event(held or self._end(), max(len(choice.tokens), 1), event.text)
                    last["generated_text"] = self._text(choice)
                    last["details"] = self._details(choice)
                    last["details"]["input_length"] = len(self.request.ids)
                    yield sse.data(last)
        except ApiError as error:
            yield sse.data(tgi_error(error)[1])

    def headers(self, choice: Choice, seconds: float) -> dict[str, str]:
        """Return the times of an answer in milliseconds, as TGI's headers."""
        stats = choice.stats
        inference = stats.prompt_seconds + stats.generate_seconds
        numbers = {
            "x-total-time": 1000 * seconds,
            "x-inference-time": 1000 * inference,
            "x-queue-time": 1000 * stats.queue_seconds,
            "x-time-per-token": 1000 * inference / max(stats.generated_tokens, 1),
            "x-prompt-tokens": stats.prompt_tokens,
            "x-generated-tokens": stats.generated_tokens,
        }
        return {"x-compute-type": "cpu", **{k: str(round(v)) for k, v in numbers.items()}}

    def _text(self, choice: Choice) -> str:
        return (self.fields.inputs if self._given.return_full_text else "") + choice.text

    def _details(self, choice: Choice) -> dict[str, Any]:
        greedy = choice.request.sampler.params.greedy
        return {
            "finish_reason": TGI_REASONS.get(choice.finish, "length"),
            "generated_tokens": choice.stats.generated_tokens,
            "seed": None if greedy else choice.seed,
        }

    def _event(self, token: Token, index: int, more: str = "") -> dict[str, Any]:
        told = self._token(token)
        told["text"] += more
        event = {"index": index, "token": told, "generated_text": None, "details": None}
        return event | ({"top_tokens": self._top(token)} if self._given.top_n_tokens else {})

    def _token(self, token: Token) -> dict[str, Any]:
        found = token.log_probability
        return self._entry(token.id, token.text, 0.0 if found is None else found.logprob)

    def _top(self, token: Token) -> list[dict[str, Any]]:
        printed, found = self.service.model.tokenizer.printed, token.log_probability
        return [
            self._entry(other, printed(other).decode("utf-8", "replace"), logprob)
            for other, logprob in (() if found is None else found.top)
        ]

    def _entry(self, token: int, text: str, logprob: float) -> dict[str, Any]:
        special = not self.service.model.tokenizer.printed(token)
        return {"id": token, "text": text, "logprob": logprob, "special": special}

    def _end(self) -> Token:
        """Return a token for a text that ended before it began."""
        return Token(min(self.request.stop, default=0), "")


def to_params(given: Parameters, *, tells_tokens: bool) -> SamplingParams:
    """Return the parameters as TGI means them. Raises ApiError (422) in its words.

    Only an answer that `tells_tokens` has log-probabilities, for which each token needs a pass.
    """
    checks = {
        "`temperature` must be strictly positive": (given.temperature or 0) >= 0,
        "`repetition_penalty` must be strictly positive": (
            given.repetition_penalty is None or given.repetition_penalty > 0
        ),
        "`frequency_penalty` must be >= -2.0 and <= 2.0": -2 <= (given.frequency_penalty or 0) <= 2,
        "`top_p` must be > 0.0 and < 1.0": given.top_p is None or 0 < given.top_p <= 1,
        "`typical_p` must be > 0.0 and < 1.0": given.typical_p is None or 0 < given.typical_p <= 1,
        "`top_k` must be strictly positive": given.top_k is None or given.top_k > 0,
        "`max_new_tokens` must be strictly positive": (
            given.max_new_tokens is None or given.max_new_tokens > 0
        ),
        "`truncate` must be strictly positive": given.truncate is None or given.truncate > 0,
        f"`top_n_tokens` must be >= 0 and <= {MAX_TOP_TOKENS}. Given: {given.top_n_tokens}": (
            0 <= (given.top_n_tokens or 0) <= MAX_TOP_TOKENS
        ),
        f"`stop` supports up to {MAX_STOPS} stop sequences. Given: {len(given.stop)}": (
            len(given.stop) <= MAX_STOPS
        ),
    }
    for message, holds in checks.items():
        if not holds:
            raise ApiError(422, f"Input validation error: {message}")
    shapes = (given.temperature not in (None, 1), given.top_k, given.top_p, given.typical_p)
    samples = given.do_sample or any(shapes)
    temperature = 1.0 if given.temperature is None else given.temperature
    values: dict[str, Any] = {
        "temperature": temperature if samples else 0.0,
        "top_k": given.top_k or 0,
        "top_p": given.top_p or 1.0,
        "typical_p": given.typical_p or 1.0,
        "min_p": 0.0,
        "repeat_penalty": given.repetition_penalty or 1.0,
        "frequency_penalty": given.frequency_penalty or 0.0,
        "repeat_last_n": ALL,
        "seed": given.seed,
        "stop": [stop for stop in given.stop if stop],
        "logprobs": (given.top_n_tokens or 0) if tells_tokens else None,
    }
    if given.grammar is not None:
        values |= _grammar(given.grammar)
    return SamplingParams(**values)


def _grammar(grammar: dict[str, Any]) -> dict[str, str]:
    kind, value = grammar.get("type"), grammar.get("value")
    if kind == "regex" and isinstance(value, str):
        return {"regex": value}
    if kind in ("json", "json_schema") and isinstance(value, dict):
        schema = value.get("schema", value) if kind == "json_schema" else value
        return {"json_schema": json.dumps(schema)}
    raise ApiError(422, "Input validation error: `grammar` must be json or regex, with its value")


def about(service: Service) -> dict[str, Any]:
    """Return what /info tells."""
    model = service.model
    return {
        "model_id": service.name,
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "model_device_type": "cpu",
        "max_concurrent_requests": service.admission.most,
        "max_best_of": 1,
        "max_stop_sequences": MAX_STOPS,
        "max_input_tokens": model.context - 1,
        "max_total_tokens": model.context,
        "max_batch_size": model.parallel,
        "router": "cpumix",
        "version": version("cpumix"),
        "sha": None,
        "docker_label": None,
    }


def routes(service: Service) -> list[Route]:
    """Return the routes of a service."""

    async def root(request: Request) -> Response:
        return await answer(service, request, None)

    async def generate(request: Request) -> Response:
        return await answer(service, request, False)

    async def generate_stream(request: Request) -> Response:
        return await answer(service, request, True)

    async def info(request: Request) -> Response:
        return JSONResponse(about(service))

    return [
        Route("/", root, methods=["POST"]),
        Route("/generate", generate, methods=["POST"]),
        Route("/generate_stream", generate_stream, methods=["POST"]),
        Route("/info", info, methods=["GET"]),
    ]


async def answer(service: Service, request: Request, streams: bool | None) -> Response:
    """Answer a request; at "/" its field `stream` says how, and a whole answer is a list."""
    began = time.monotonic()
    fields, unknown = decode(await read_body(request), GenerateRequest)
    salt = request.scope.get("cpumix.salt", b"")
    wanted = fields.stream if streams is None else streams
    asked = await while_connected(
        request.receive, service.prepare(TextRequest, service, fields, salt, wanted)
    )
    writing = service.write([asked.request])
    request.scope["cpumix.work"] = writing
    if asked.streams:
        return sse.EventStream(asked.stream(writing), writing.close, warnings(unknown))
    try:
        (choice,) = await while_connected(request.receive, writing.all())
    finally:
        writing.close()
    headers = asked.headers(choice, time.monotonic() - began) | warnings(unknown)
    told = asked.whole(choice)
    return JSONResponse([told] if streams is None else told, headers=headers)
