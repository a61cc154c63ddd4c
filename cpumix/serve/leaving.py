"""Notices that a client has left, whatever is being done for it.

No ASGI server cancels a handler that has not begun to answer; this does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NoReturn, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; cancel it and raise ClientLeft when the client disconnects."""
    return await unless(work, disconnect(receive))


async def disconnect(receive: Receive) -> NoReturn:
    """Raise ClientLeft when the client disconnects.

    The body must have been read: after it, `receive` has nothing but the disconnect.
    """
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientLeft


async def unless(work: Coroutine[Any, Any, T], *ends: Coroutine[Any, Any, NoReturn]) -> T:
    """Return what `work` returns; cancel it when one of `ends` raises, and raise that."""
    working, *_ = tasks = [asyncio.ensure_future(each) for each in (work, *ends)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return (working if working in done else done.pop()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
