"""Server-sent events: a stream that ends when its client leaves, and is always closed.

Not sse-starlette: that replaces uvicorn's signal handler and cuts streams at shutdown, where ours
are to end by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NoReturn

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .leaving import ClientLeft, disconnect, unless

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
        self._since, self._sending = 0.0, False  # when the last event began or had been sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        self._since = time.monotonic()
        try:
            with contextlib.suppress(ClientLeft, TimeoutError):
                await unless(self._send(send), disconnect(receive), self._watch(send))
        finally:
            self._close()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for event in self._events:
            self._since, self._sending = time.monotonic(), True
            await send(_body(event))
            self._since, self._sending = time.monotonic(), False
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _watch(self, send: Send) -> NoReturn:
        """Break silences; raise TimeoutError when the client takes too long to accept an event.

        One task for the stream: a timer for each event would take longer than the event.
        """
        while True:
            limit = SEND_TIMEOUT if self._sending else PING
            left = self._since + limit - time.monotonic()
            if left > 0:
                await asyncio.sleep(min(left, PING))
            elif self._sending:
                raise TimeoutError
            else:
                with anyio.fail_after(SEND_TIMEOUT):  # asyncio.wait_for may swallow a cancellation
                    await send(_body(comment("ping")))
                self._since = time.monotonic()


def _body(event: str) -> dict[str, Any]:
    return {"type": "http.response.body", "body": event.encode("ascii"), "more_body": True}
