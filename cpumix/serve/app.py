"""The application: all routes, and what happens at the end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from cpumix.api.errors import ApiError, failure

from . import chat_page, openai, readings, tgi, tokens
from .guard import LEFT, Access, Guard, error_response
from .leaving import ClientLeft
from .log import Log
from .service import Service

if TYPE_CHECKING:
    from .tracing import Tracing


def create_app(
    service: Service, access: Access, log: Log, tracing: Tracing | None = None
) -> ASGIApp:
    """Return the ASGI application of a service."""
    engine = service.model.engine

    def count(event: str, **values: object) -> None:
        if event == "request":
            service.metrics.answered(str(values["path"]), int(str(values["status"])))
        log(event, **values)

    async def health(request: Request) -> Response:
        alive = engine.loop.alive
        return JSONResponse({"status": "ok" if alive else "error"}, 200 if alive else 503)

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4")

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error_response(error, request.url.path)

    async def no_route(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        told = ApiError(error.status_code, f"{error.detail}.", headers=error.headers)
        return error_response(told, request.url.path)

    async def broken(request: Request, error: Exception) -> Response:
        return error_response(failure(error, engine.loop.alive), request.url.path)

    async def left(request: Request, error: Exception) -> Response:
        return Response(status_code=LEFT)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        service.close()

    middleware = []
    if access.origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=[*access.origins],
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["x-request-id", "x-cpumix-warning", "retry-after"],
            )
        )
    app = Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            Route("/metrics", metrics, methods=["GET"]),
            *openai.routes(service),
            *tgi.routes(service),
            *readings.routes(service),
            *tokens.routes(service),
            *chat_page.routes(),
        ],
        middleware=middleware,
        exception_handlers={
            ApiError: refused,
            HTTPException: no_route,
            ClientLeft: left,
            Exception: broken,
        },
        lifespan=lifespan,
    )
    return Guard(app, access, lambda: engine.loop.alive, count, tracing)
