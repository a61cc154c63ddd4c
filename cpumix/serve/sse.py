"""Server-sent events: a stream that ends when its client leaves, and is always closed.

Not sse-starlette: that replaces uvicorn's signal handler and cuts streams at shutdown, where ours
are to end by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .leaving import ClientLeft, while_connected

PING = 15.0  # seconds of silence after which a comment shows that we are alive
SEND_TIMEOUT = 60.0  # seconds that a client may take to accept an event

DONE = "data: [DONE]\n\n"


def data(value: Any) -> str:
    """Return an event with a JSON value; ASCII, as some clients split lines at U+2028."""
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


def comment(text: str) -> str:
    """Return a comment, which clients pass over."""
    return f": {text}\n\n"


class EventStream(Response):
    """Sends events as they come; `close` is called at the end, even if nothing was ever sent."""

    def __init__(
        self,
        events: AsyncIterator[str],
        close: Callable[[], None],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(media_type="text/event-stream", headers=headers)
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"
        self._events, self._close = events, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            with contextlib.suppress(ClientLeft, TimeoutError):
                await while_connected(receive, self._send(send))
        finally:
            self._close()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        coming: asyncio.Future[str] | None = None
        try:
            while True:
                coming = asyncio.ensure_future(anext(self._events))
                while not (await asyncio.wait({coming}, timeout=PING))[0]:
                    await self._put(send, comment("ping"))
                try:
                    event = coming.result()
                except StopAsyncIteration:
                    break
                await self._put(send, event)
        finally:
            if coming is not None and not coming.done():
                coming.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _put(self, send: Send, event: str) -> None:
        body = {"type": "http.response.body", "body": event.encode("ascii"), "more_body": True}
        with anyio.fail_after(SEND_TIMEOUT):  # asyncio.wait_for may swallow a cancellation
            await send(body)
