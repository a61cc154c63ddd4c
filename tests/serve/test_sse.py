"""Streams of events: silences are broken, and a client that accepts nothing is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from cpumix.serve import sse

Message = dict[str, object]


def run(
    events: AsyncIterator[str],
    send: Callable[[Message], Awaitable[None]],
    receive: Callable[[], Awaitable[Message]] | None = None,
) -> int:
    """Run a stream to its end; return how often it was closed."""
    closed = []

    async def silent() -> Message:
        await asyncio.Event().wait()
        return {}

    async def whole() -> None:
        stream = sse.EventStream(events, lambda: closed.append(1))
        await asyncio.wait_for(stream({"type": "http"}, receive or silent, send), 60)

    asyncio.run(whole())
    return len(closed)


def test_events_come_in_order_and_the_stream_ends():
    sent = []

    async def events() -> AsyncIterator[str]:
        yield sse.data({"a": "é"})
        yield sse.DONE

    async def send(message: Message) -> None:
        sent.append(message)

    assert run(events(), send) == 1
    assert [m["type"] for m in sent] == ["http.response.start", *3 * ["http.response.body"]]
    assert [m["body"] for m in sent[1:]] == [b'data: {"a":"\\u00e9"}\n\n', b"data: [DONE]\n\n", b""]
    assert [m["more_body"] for m in sent[1:]] == [True, True, False]


def test_silence_is_broken(monkeypatch):
    monkeypatch.setattr(sse, "PING", 0.01)
    pinged, sent = asyncio.Event(), []

    async def events() -> AsyncIterator[str]:
        await pinged.wait()
        yield "data: 1\n\n"

    async def send(message: Message) -> None:
        sent.append(message.get("body"))
        if sent.count(b": ping\n\n") == 3:
            pinged.set()

    assert run(events(), send) == 1
    assert sent[:4] == [None, *3 * [b": ping\n\n"]]
    assert b"data: 1\n\n" in sent


@pytest.mark.parametrize("silent_first", [False, True])
def test_client_that_accepts_nothing_is_given_up(monkeypatch, silent_first):
    monkeypatch.setattr(sse, "SEND_TIMEOUT", 0.05)
    monkeypatch.setattr(sse, "PING", 0.01)
    ended = []

    async def events() -> AsyncIterator[str]:
        try:
            if silent_first:
                await asyncio.Event().wait()
            while True:
                yield "data: 1\n\n"
        finally:
            ended.append(1)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    assert run(events(), send) == 1
    assert ended == [1]


def test_client_that_leaves_ends_the_stream():
    async def events() -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""

    async def send(message: Message) -> None:
        assert message["type"] == "http.response.start"

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    assert run(events(), send, receive) == 1
