"""/tokenize and /detokenize, as vLLM has them."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cpumix.api.body import decode
from cpumix.api.chat import as_templates_know
from cpumix.api.errors import ApiError

from .service import Service
from .wire import read_body, warnings


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """A text, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """Tokens."""

    tokens: list[int]
    model: str | None = None


def encode(service: Service, fields: TokenizeRequest) -> list[int]:
    """Return the tokens that a completion or a chat would begin with."""
    if (fields.prompt is None) == (fields.messages is None):
        raise ApiError(400, "body: expected one of prompt and messages, found both or none.")
    tokenizer = service.model.tokenizer
    if fields.prompt is not None:
        return tokenizer.encode(fields.prompt, bos=fields.add_special_tokens)
    return tokenizer.encode_chat(
        [as_templates_know(message) for message in fields.messages or []],
        fields.add_generation_prompt,
        chat_template=service.chat_template,
    )


def routes(service: Service) -> list[Route]:
    """Return the routes of a service."""

    async def tokenize(request: Request) -> Response:
        fields, unknown = decode(await read_body(request), TokenizeRequest)
        ids = await service.prepare(encode, service, fields)
        body = {"count": len(ids), "max_model_len": service.model.context, "tokens": ids}
        return JSONResponse(body, headers=warnings(unknown))

    async def detokenize(request: Request) -> Response:
        fields, unknown = decode(await read_body(request), DetokenizeRequest)
        size = service.model.config.vocab_size
        if not all(0 <= token < size for token in fields.tokens):
            raise ApiError(400, f"tokens: expected ids from 0 to {size - 1}.", param="tokens")
        text = await service.prepare(service.model.tokenizer.decode, fields.tokens)
        return JSONResponse({"prompt": text}, headers=warnings(unknown))

    return [
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
    ]
