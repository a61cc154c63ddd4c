"""From the compute thread to an event loop, which may be closed by then."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue that any thread puts into, for the event loop that runs where it is made."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._courier = _couriers.setdefault(loop, Courier(loop))
        self._queue: asyncio.Queue[T] = asyncio.Queue()

    def put(self, item: T) -> None:
        """Leave something; nobody waits for it where the loop is closed."""
        self._courier.take(self._queue, item)

    async def get(self) -> T:
        """Wait for what comes next."""
        return await self._queue.get()


class Courier:
    """Takes to one event loop what other threads have left for it, all of it at a time.

    To wake the loop takes as long as a small kernel, and a step of many texts has something for
    each of them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # it would keep its own key alive
        self._left: deque[tuple[asyncio.Queue[Any], Any]] = deque()
        self._called = False

    def take(self, queue: asyncio.Queue[T], item: T) -> None:
        """Bring something to a queue of the loop; from any thread."""
        self._left.append((queue, item))
        loop = self._loop()
        if not self._called and loop is not None:
            self._called = True
            with suppress(RuntimeError):  # it may be closed at this very moment
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._called = False  # what is left from here on may be seen below, or be called for
        while self._left:
            queue, item = self._left.popleft()
            queue.put_nowait(item)


_couriers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Courier]
_couriers = weakref.WeakKeyDictionary()
