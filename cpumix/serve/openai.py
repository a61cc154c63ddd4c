"""OpenAI's routes: /v1/models, /v1/chat/completions, /v1/completions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cpumix.api.body import decode
from cpumix.api.chat import Chat
from cpumix.api.completions import Completion
from cpumix.api.errors import ApiError, openai_error

from . import sse
from .leaving import while_connected
from .service import Service
from .wire import read_body, warnings
from .writing import PromptProgress, Writing

Asked = Chat | Completion
SHOWN_DEFAULTS = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")


def routes(service: Service) -> list[Route]:
    """Return the routes of a service."""

    async def chat(request: Request) -> Response:
        return await answer(service, request, Chat)

    async def completions(request: Request) -> Response:
        return await answer(service, request, Completion)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [about(service)]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] != service.name:
            raise ApiError(404, "model: expected one of /v1/models.", code="model_not_found")
        return JSONResponse(about(service))

    return [
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name}", model, methods=["GET"]),
    ]


def about(service: Service) -> dict[str, Any]:
    """Return the entry of a model in the list of models."""
    return {
        "id": service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "cpumix",
        "max_model_len": service.model.context,
        "chat": service.has_chat_template,
        "sampling": {name: getattr(service.defaults, name) for name in SHOWN_DEFAULTS},
    }


async def answer(
    service: Service, request: Request, kind: type[Chat] | type[Completion]
) -> Response:
    """Answer a request, as a whole or as a stream."""
    fields, unknown = decode(await read_body(request), kind.kind)
    salt = request.scope.get("cpumix.salt", b"")
    make: Callable[..., Asked] = kind
    preparing = service.prepare(make, service, fields, salt)
    asked: Asked = await while_connected(request.receive, preparing)
    writing = service.write(asked.requests)
    request.scope["cpumix.work"] = writing
    headers = warnings(unknown)
    if fields.stream:
        return sse.EventStream(stream(asked, writing), writing.close, headers)
    try:
        choices = await while_connected(request.receive, writing.all())
    finally:
        writing.close()
    return JSONResponse(asked.whole(choices), headers=headers)


async def stream(asked: Asked, writing: Writing) -> AsyncIterator[str]:
    """Yield the events of a stream; an error in the middle is an event, too."""
    try:
        for chunk in asked.opening():
            yield sse.data(chunk)
        async for index, event in writing.events():
            if isinstance(event, PromptProgress):
                yield sse.comment(f"prompt {event.done}/{event.all}")
                continue
            for chunk in asked.chunks(index, event, writing.choices[index]):
                yield sse.data(chunk)
        if asked.fields.with_usage:
            yield sse.data(asked.last(writing.choices))
    except ApiError as error:
        yield sse.data(openai_error(error))
    yield sse.DONE
