"""OpenAI's /v1/chat/completions: answer a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from cpumix.engine.events import Event, Finish, Token
from cpumix.engine.sequence import Request
from cpumix.errors import ConfigError
from cpumix.sampling.tools import ToolChoice, arguments_schema, call_schema, read_tools

from .choice import Choice
from .errors import ApiError
from .sampling_fields import (
    MAX_TOP_LOGPROBS,
    SamplingFields,
    check_max_tokens,
    refuse_unsupported,
)
from .served_model import ServedModel
from .stamp import Stamp
from .tools import ForcedCall, FoundCalls, PlainAnswer, explanation
from .usage import FINGERPRINT, FINISH_REASONS, chat_logprobs, timings, usage

Message = dict[str, Any]


class ChatRequest(SamplingFields, kw_only=True):
    """The fields of a request."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    # Of templates, as vLLM has them:
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    # Known, and not supported:
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    prediction: Any = None
    web_search_options: Any = None
    store: bool | None = None
    modalities: list[str] | None = None


class Chat:
    """One request, and the shape of its answer."""

    kind = ChatRequest

    def __init__(
        self,
        service: ServedModel,
        fields: ChatRequest,
        salt: bytes = b"",
        stamp: Stamp | None = None,
    ) -> None:
        """Read a request; slow, not for the event loop. Raises ApiError, ConfigError."""
        self.fields, self._service = fields, service
        self._stamp = stamp or Stamp()
        self._id = self._stamp.identity("chatcmpl-")
        refuse_unsupported(
            fields,
            "audio",
            "function_call",
            "functions",
            "prediction",
            "web_search_options",
            "store",
        )
        if fields.modalities not in (None, ["text"]):
            raise ApiError(400, 'modalities: expected ["text"], found others.', param="modalities")
        self._tools = _tools(fields)
        wanted = self._response_schema()
        most = fields.max_completion_tokens
        check_max_tokens("max_completion_tokens", most)
        check_max_tokens("max_tokens", fields.max_tokens)
        ids, call = self._encode()
        params = fields.to_params(
            service.defaults, json_schema=call or wanted, logprobs=self._count_logprobs()
        )
        goes_on = bool(fields.continue_final_message or self._tools.forced)
        self.requests: list[Request] = [
            service.request(
                ids,
                params.seeded(index),
                fields.max_tokens if most is None else most,
                salt=salt,
                continuing=goes_on,
            )
            for index in range(fields.choices)
        ]
        self._answers = [self._answer() for _ in self.requests]

    def opening(self) -> Iterator[dict[str, Any]]:
        """Yield what a stream begins with."""
        for index in range(len(self.requests)):
            yield self._chunk(index, {"role": "assistant", "content": ""})

    def chunks(self, index: int, event: Event, choice: Choice) -> Iterator[dict[str, Any]]:
        """Yield what a stream tells of an event."""
        answer = self._answers[index]
        if isinstance(event, Token):
            deltas = answer.put(event.text)
            if self.fields.logprobs:
                deltas = deltas or [{"content": ""}]
            for i, delta in enumerate(deltas):
                yield self._chunk(index, delta, tokens=[event] if i == 0 else [])
        elif isinstance(event, Finish):
            for delta in [*answer.put(event.text), *answer.finish()]:
                yield self._chunk(index, delta)
            yield self._chunk(index, {}, finish=self._reason(answer, choice.finish))

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return an answer that is not streamed."""
        entries = []
        for index, (choice, answer) in enumerate(zip(choices, self._answers, strict=True)):
            answer.put(choice.text)
            answer.finish()
            entries.append(
                {
                    "index": index,
                    "message": answer.message,
                    "logprobs": self._logprobs(choice.tokens),
                    "finish_reason": self._reason(answer, choice.finish),
                }
            )
        return self._body("chat.completion", entries) | self.numbers(choices)

    def last(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return the chunk with the numbers, which ends a stream."""
        return self._body("chat.completion.chunk", []) | self.numbers(choices)

    def numbers(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return tokens and times."""
        return {
            "usage": usage(choices),
            "timings": timings(choices[0]),
            "seed": choices[0].seed,
        }

    def _encode(self) -> tuple[list[int], str | None]:
        """Return the prompt, and the JSON schema of the call that follows, if one has to."""
        service, fields = self._service, self.fields
        service.model.check_writes()
        if not service.has_chat_template:
            raise ApiError(
                400,
                "This model has no chat template. Use /v1/completions, or start the server with "
                "--chat-template.",
                param="messages",
            )
        messages = [as_templates_know(message) for message in fields.messages]
        given: dict[str, Any] = {
            "chat_template": service.chat_template,
            "variables": fields.chat_template_kwargs,
            "continue_final_message": bool(fields.continue_final_message),
        }
        tokenizer, asked, tools = service.model.tokenizer, self._tools, fields.tools or []
        if not asked.functions:
            return tokenizer.encode_chat(messages, **given), None
        told = tokenizer.writes_tools(messages, tools, **given)
        if asked.forced:
            return self._encode_call(messages, told, given)
        if told:
            return tokenizer.encode_chat(messages, tools=tools, **given), None
        raise ApiError(
            400,
            'tool_choice: expected "required", "none" or one of the tools, as this model\'s '
            "chat template knows no tools.",
            param="tool_choice",
        )

    def _encode_call(
        self, messages: list[Message], told: bool, given: dict[str, Any]
    ) -> tuple[list[int], str]:
        """Return the prompt up to a call, or where one is `named` to its arguments; see `_encode`.

        Where the template has not `told` of the tools, a system text does.
        """
        tokenizer, asked = self._service.model.tokenizer, self._tools
        functions = [asked.functions[name] for name in asked.forced]
        if told:
            name = asked.forced[0] if asked.named else None
            tools = self.fields.tools or []
            ids, arguments = tokenizer.encode_call(messages, tools, name=name, **given)
        else:
            system = {"role": "system", "content": explanation(asked)}
            ids, arguments = tokenizer.encode_chat([system, *messages], **given), "arguments"
        if asked.named:
            return ids, json.dumps(arguments_schema(functions[0]))
        return ids, call_schema(functions, arguments)

    def _answer(self) -> PlainAnswer:
        if not self._tools.functions:
            return PlainAnswer()
        if self._tools.named:
            return ForcedCall(self._tools.forced[0], self._stamp)
        most = 1 if self.fields.parallel_tool_calls is False else None
        return FoundCalls([*self._tools.functions], self._stamp, most)

    def _response_schema(self) -> str | None:
        """Return the JSON schema that `response_format` asks for, if it does."""
        wanted = _response_schema(self.fields.response_format)
        if wanted is not None and self._tools.functions:
            raise ApiError(
                400,
                "response_format: expected it left out where tools may be called.",
                param="response_format",
            )
        return wanted

    def _count_logprobs(self) -> int | None:
        top = self.fields.top_logprobs
        if top is not None and not (self.fields.logprobs and 0 <= top <= MAX_TOP_LOGPROBS):
            raise ApiError(
                400,
                f"top_logprobs: expected 0 to {MAX_TOP_LOGPROBS}, beside logprobs, found {top}.",
                param="top_logprobs",
            )
        return (top or 0) if self.fields.logprobs else None

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self.fields.logprobs:
            return None
        return chat_logprobs(tokens, self._service.model.tokenizer)

    @staticmethod
    def _reason(answer: PlainAnswer, reason: str) -> str:
        told = FINISH_REASONS.get(reason, "stop")
        return "tool_calls" if answer.calls and told == "stop" else told

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        tokens: Sequence[Token] = (),
        finish: str | None = None,
    ) -> dict[str, Any]:
        logprobs = self._logprobs(tokens) if tokens else None
        entry = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._body("chat.completion.chunk", [entry])

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._stamp.created,
            "model": self._service.name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }


def as_templates_know(message: Message) -> Message:
    """Return a message with arguments of calls as objects, and "developer" as "system"."""
    message = dict(message)
    if message.get("role") == "developer":
        message["role"] = "system"
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        message["tool_calls"] = [_with_object(call) for call in calls]
    return message


def _with_object(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _tools(fields: ChatRequest) -> ToolChoice:
    """Return what may be called. Raises ApiError (400)."""
    try:
        return read_tools(fields.tools or [], fields.tool_choice)
    except ConfigError as error:
        raise ApiError(400, error.message, param=error.message.partition(":")[0]) from error


def _response_schema(wanted: dict[str, Any] | None) -> str | None:
    """Return the schema that a response_format asks for; huggingface_hub has a way of its own."""
    kind = "text" if wanted is None else wanted.get("type")
    if kind == "text":
        return None
    assert wanted is not None
    if kind == "json_object":
        return '{"type": "object"}'
    inner = wanted.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else wanted.get("value")
    if kind in ("json_schema", "json") and isinstance(schema, dict):
        return json.dumps(schema)
    raise ApiError(
        400,
        'response_format: expected "text", "json_object" or "json_schema" with a schema, found '
        "another.",
        param="response_format",
    )
