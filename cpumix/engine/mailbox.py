"""From the compute thread to an event loop, which may be closed by then."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue that any thread puts into, for the event loop that runs where it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[T] = asyncio.Queue()

    def put(self, item: T) -> None:
        """Leave something; nobody waits for it where the loop is closed."""
        with suppress(RuntimeError):  # which may happen at this very moment
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def get(self) -> T:
        """Wait for what comes next."""
        return await self._queue.get()
