"""What the compute thread tells an event loop."""

from __future__ import annotations

import asyncio
import gc
import weakref
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


def test_what_is_left_at_once_wakes_the_loop_once():
    async def run() -> int:
        loop, boxes = asyncio.get_running_loop(), [Mailbox[int]() for _ in range(3)]
        calls, call = [], loop.call_soon_threadsafe

        def count(*arguments: object) -> object:
            calls.append(arguments)
            return call(*arguments)

        loop.call_soon_threadsafe = count  # type: ignore[method-assign]
        for _ in range(2):
            for i, box in enumerate(boxes):
                box.put(i)
            assert [await box.get() for box in boxes] == [0, 1, 2]
        return len(calls)

    assert asyncio.run(run()) == 2


def test_mailboxes_keep_no_loop():
    gone = []

    async def run() -> None:
        Mailbox[int]().put(1)
        weakref.finalize(asyncio.get_running_loop(), gone.append, 1)

    asyncio.run(run())
    gc.collect()
    assert gone == [1]
