"""What stands before every route: request ids, Host, Origin, keys, errors, the log."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import time
import traceback
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cpumix.api.errors import ApiError, failure, openai_error, tgi_error

from .chat_page import is_page
from .leaving import ClientLeft
from .log import Log

if TYPE_CHECKING:
    from .tracing import Tracing

OPEN_PATHS = frozenset({"/health"})
TGI_PATHS = frozenset({"/", "/generate", "/generate_stream", "/info"})
LEFT = 499  # what nginx logs for a client that has left

_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    keys: Sequence[str] = ()
    """Any of these as a bearer token; nobody needs one if there is none."""
    hosts: Collection[str] = ()
    """Names under which the server may be asked, beside addresses and localhost."""
    origins: Collection[str] = ()
    """Web pages that may ask, beside our own; "*" for all."""

    def check(self, headers: Headers) -> bytes:
        """Return the salt of whoever asks. Raises ApiError (401, 403)."""
        host = headers.get("host", "")
        name = urlsplit(f"//{host}").hostname or ""
        # A page of a stranger may let its own name point to this address (DNS rebinding). Only a
        # key, which it does not have, makes a name unimportant.
        if not (self.keys or name in self.hosts or name == "localhost" or _is_address(name)):
            raise ApiError(
                403, "Host: expected an address or a name that this server has; see --allow-host."
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            if not {origin, "*"} & {*self.origins}:
                raise ApiError(
                    403, "Origin: expected a page of this server, found another; see --cors-origin."
                )
        return self._salt(headers.get("authorization", "")) if self.keys else b""

    def _salt(self, authorization: str) -> bytes:
        scheme, _, given = authorization.partition(" ")
        digest = hashlib.sha256(given.strip().encode("utf-8", "replace")).digest()
        found = [
            hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest()) for key in self.keys
        ]
        if scheme.lower() != "bearer" or not any(found):
            raise ApiError(
                401,
                "Authorization: expected a key of this server, as a bearer token.",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return digest


class Guard:
    """The outermost application: nothing passes it unchecked, and nothing ends unlogged."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        alive: Callable[[], bool],
        log: Log,
        tracing: Tracing | None = None,
    ) -> None:
        self._app, self._access, self._alive, self._log = app, access, alive, log
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, began, status = Headers(scope=scope), time.monotonic(), LEFT
        given = headers.get("x-request-id", "")
        identity = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started = False
        span = None if self._tracing is None else self._tracing.begin(scope["method"], headers)

        async def tell(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                MutableHeaders(scope=message)["x-request-id"] = identity
                MutableHeaders(scope=message)["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            preflight = scope["method"] == "OPTIONS" and bool(self._access.origins)
            is_open = scope["path"] in OPEN_PATHS or is_page(scope["method"], scope["path"])
            if not (is_open or preflight):
                scope["cpumix.salt"] = self._access.check(headers)
            await self._app(scope, receive, tell)
        except ClientLeft:
            pass
        except Exception as error:
            told = failure(error, self._alive())
            if told.status == 500:
                self._log("error", request_id=identity, error=_where(error))
            if not started:
                await error_response(told, scope["path"])(scope, receive, tell)
        finally:
            seconds, work = round(time.monotonic() - began, 4), scope.get("cpumix.work")
            method, path = scope["method"], _route(scope)
            self._log(
                "request",
                request_id=identity,
                method=method,
                path=path,
                status=status,
                seconds=seconds,
                **({} if work is None else work.counts),
                **({} if span is None else {"trace_id": span.trace_id}),
            )
            if span is not None:
                values = {"cpumix.request_id": identity}
                span.end(method, path, status, values, [] if work is None else work.phases)


def error_response(error: ApiError, path: str) -> Response:
    """Return an error in the shape of the dialect that a path belongs to."""
    if path in TGI_PATHS:
        status, body = tgi_error(error)
        return JSONResponse(body, status, headers=error.headers)
    return JSONResponse(openai_error(error), error.status, headers=error.headers)


def _where(error: Exception) -> str:
    """Return an error's kind and place; its words may be a client's."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
    return f"{type(error).__name__} at {places}"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _route(scope: Scope) -> str:
    """Return the path if it is one of ours: others are a client's own words."""
    return scope["path"] if scope.get("endpoint") and not scope.get("path_params") else "other"
