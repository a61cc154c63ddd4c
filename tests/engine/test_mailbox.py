"""What the compute thread tells an event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from cpumix.engine.mailbox import Mailbox


def test_what_another_thread_puts_comes_in_order():
    async def run() -> list[int]:
        mailbox = Mailbox[int]()
        with ThreadPoolExecutor(1) as other:
            other.submit(lambda: [mailbox.put(i) for i in range(5)])
            return [await mailbox.get() for _ in range(5)]

    assert asyncio.run(run()) == [*range(5)]


def test_a_loop_that_is_closed_is_told_nothing():
    async def run() -> Mailbox[int]:
        return Mailbox[int]()

    asyncio.run(run()).put(1)
