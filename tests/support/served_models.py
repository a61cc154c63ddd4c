"""A server in this process, on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from cpumix.model import Model
from cpumix.serve.app import create_app
from cpumix.serve.guard import Access
from cpumix.serve.server import Server, listen
from cpumix.serve.service import Service
from cpumix.serve.tracing import Tracing


class Served(NamedTuple):
    """A server that runs."""

    url: str
    model: Model
    service: Service
    log: list[dict[str, Any]]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so; fail if it does not become so."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextlib.contextmanager
def held(served: Served, steps: int) -> Iterator[None]:
    """Let a model take so many steps, and no more until the block ends."""
    loop, left, go_on = served.model.engine.loop, [steps], threading.Event()

    def count(rows: int) -> None:
        left[0] -= 1
        if left[0] <= 0:
            go_on.wait(600)

    loop.on_step = count
    try:
        yield
    finally:
        loop.on_step = None
        go_on.set()


@contextlib.contextmanager
def serve(
    model: Model,
    *,
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    otlp_endpoint: str | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """Serve a model until the block ends, and send traces to an endpoint if there is one."""
    log: list[dict[str, Any]] = []

    def write(event: str, **values: Any) -> None:
        log.append({"event": event, **values})

    service = Service(model, **settings)
    app = create_app(
        service,
        Access(keys, (), origins),
        write,
        tracing := None if otlp_endpoint is None else Tracing(otlp_endpoint, write),
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
        if tracing is not None:
            tracing.close()
