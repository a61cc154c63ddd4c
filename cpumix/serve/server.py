"""Listens, and ends in good order: texts under way are written to their end, unless asked twice."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

CHECK_EVERY = 0.5  # seconds between two looks at the engine
MAX_HEADERS = 32 << 10  # bytes
CONNECTIONS = 1000
IDLE_SECONDS = 30
HEAD_SECONDS = 30.0


class Connection(H11Protocol):
    """A connection that is closed when the head of its first request does not come in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None:  # no request has begun; later ones have uvicorn's own limit
            self.transport.abort()


class Server(uvicorn.Server):
    """uvicorn, with its signals our way, and an eye on the engine."""

    def __init__(self, app: ASGIApp, alive: Callable[[], bool]) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEADERS,
            backlog=CONNECTIONS,
        )
        super().__init__(config)
        self._alive = alive
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failed = False
        """Whether the engine has ended by itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at SIGINT and SIGTERM, and not be killed by them afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = (signal.SIGINT, signal.SIGTERM)
        before = {name: signal.signal(name, self.handle_exit) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let texts end; at the second signal, end them now."""
        if self.should_exit and self._loop is not None:
            self._loop.call_soon_threadsafe(self._hang_up)
        self.should_exit = True

    def _hang_up(self) -> None:
        for connection in [*self.server_state.connections]:
            connection.transport.abort()  # what is done for a client that is gone ends by itself

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until stopped, or until the engine ends."""
        self._loop = asyncio.get_running_loop()
        watching = asyncio.ensure_future(self._watch())
        try:
            await super().serve(sockets)
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        while self._alive():
            await asyncio.sleep(CHECK_EVERY)
        self.failed = self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=CONNECTIONS)


def run(app: ASGIApp, sockets: list[socket.socket], alive: Callable[[], bool]) -> bool:
    """Serve until a signal comes; return whether the engine was alive to the end."""
    server = Server(app, alive)
    asyncio.run(server.serve(sockets))
    return not server.failed
