"""A server in this process, on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cpumix.model import Model
from cpumix.serve.app import create_app
from cpumix.serve.guard import Access
from cpumix.serve.server import Server, listen
from cpumix.serve.service import Service


class Served(NamedTuple):
    """A server that runs."""

    url: str
    model: Model
    service: Service
    log: list[dict[str, Any]]


@contextlib.contextmanager
def serve(
    model: Model, *, keys: Sequence[str] = (), origins: Sequence[str] = (), **settings: Any
) -> Iterator[Served]:
    """Serve a model until the block ends."""
    log: list[dict[str, Any]] = []
    service = Service(model, **settings)
    app = create_app(
        service,
        Access(keys, (), origins),
        lambda event, **values: log.append({"event": event, **values}),
    )
    listening = listen("127.0.0.1", 0)
    server = Server(app, lambda: True)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{listening.getsockname()[1]}", model, service, log)
    finally:
        server.should_exit = True
        thread.join()
