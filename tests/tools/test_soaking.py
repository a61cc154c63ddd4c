"""The watch on memory that soaks share."""

from __future__ import annotations

import threading

from soaking import MemoryWatch


def test_memory_is_sampled_until_it_stops():
    read, third = [], threading.Event()

    def rss() -> int:
        read.append(100 + len(read))
        if len(read) == 3:
            third.set()
        return read[-1]

    watch = MemoryWatch(rss, 0.001)
    watch.start()
    assert third.wait(10)
    watch.stop()
    assert not watch.is_alive()
    assert watch.samples == read


def test_growth_is_of_the_last_quarter_over_the_second():
    watch = MemoryWatch(int, 1)
    watch.samples = [9, 9, 2, 2, 5, 5, 3, 3]
    assert watch.growth() == 1.5
    watch.samples = [4]
    assert watch.growth() == 1
