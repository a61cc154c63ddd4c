"""Reader threads: pieces in order, breaking off, going on, failing, ending."""

from __future__ import annotations

import threading

import pytest

from cpumix.experts import readers
from cpumix.experts.readers import Read, ReaderThreads
from cpumix.experts.views import FileRange

PIECE = readers.PIECE


class FakeRegion:
    """A file whose pieces come when the test lets them."""

    def __init__(self) -> None:
        self.brought: list[tuple[int, int]] = []
        self.given_back: list[int] = []
        self.allowed = threading.Semaphore(0)
        self.started = threading.Semaphore(0)
        self.error: Exception | None = None

    def missing(self, offset: int, nbytes: int) -> int:
        return nbytes

    def bring(self, offset: int, nbytes: int) -> None:
        self.started.release()
        assert self.allowed.acquire(timeout=600)
        if self.error:
            raise self.error
        self.brought.append((offset, nbytes))

    def give_back(self, offset: int, nbytes: int) -> None:
        self.given_back.append(offset)

    def allow(self, pieces: int = 1000) -> None:
        self.allowed.release(pieces)

    def wait_for(self, pieces: int) -> None:
        for _ in range(pieces):
            assert self.started.acquire(timeout=600)


class Pool:
    """Reader threads on a fake file, and the reads that have ended."""

    def __init__(self, monkeypatch, threads: int) -> None:
        monkeypatch.setattr(readers, "THREADS", threads)
        self.region, self.ended, self.idle = FakeRegion(), [], []
        take = lambda: self.idle.pop(0) if self.idle else None  # noqa: E731
        self.threads = ReaderThreads(self.region, self.ended.append, take)
        self.changed = self.threads.changed

    def ask(self, number: int, pieces: float, leaving: tuple[FileRange, ...] = ()) -> Read:
        nbytes = int(pieces * PIECE)
        file_range = FileRange(number * 100 * PIECE, nbytes, nbytes * 2 // 3)
        read = Read((0, number), file_range, list(leaving))
        with self.changed:
            self.threads.ask(read)
        return read

    def wait(self, *reads: Read) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: all(r in self.ended for r in reads), timeout=600)


@pytest.fixture(params=[1, 4])
def pool(request, monkeypatch):
    pool = Pool(monkeypatch, request.param)
    yield pool
    pool.region.allow()
    pool.threads.close()


def test_reads_every_byte_once_in_order_of_asking(pool):
    first, second = pool.ask(0, 2.5), pool.ask(1, 1)
    pool.region.allow()
    pool.wait(first, second)
    assert sorted(pool.region.brought) == [
        (0, PIECE), (PIECE, PIECE), (2 * PIECE, PIECE // 2), (100 * PIECE, PIECE)
    ]  # fmt: skip
    assert first.arrived == first.prefix == first.file_range.nbytes
    assert pool.threads.bytes_read == int(3.5 * PIECE)
    assert pool.threads.busy_seconds > 0


def test_prefix_counts_only_what_is_all_there(monkeypatch):
    pool = Pool(monkeypatch, 2)
    read = pool.ask(0, 3)
    pool.region.wait_for(2)
    with pool.changed:
        assert read.prefix == 0
        assert read.asked == 2 * PIECE
    pool.region.allow()
    pool.wait(read)
    assert read.prefix == 3 * PIECE
    pool.threads.close()


def test_gives_back_before_it_brings(pool):
    read = pool.ask(0, 1, (FileRange(50, 10, 5), FileRange(70, 10, 5)))
    pool.region.wait_for(1)
    assert pool.region.given_back == [50, 70]
    pool.region.allow()
    pool.wait(read)


def test_broken_off_read_ends_after_the_pieces_under_way(monkeypatch):
    pool = Pool(monkeypatch, 1)
    read = pool.ask(0, 5)
    pool.region.wait_for(1)
    with pool.changed:
        pool.threads.cancel(read)
    assert pool.ended == []
    pool.region.allow()
    pool.wait(read)
    assert read.arrived == PIECE
    assert pool.region.brought == [(0, PIECE)]
    pool.threads.close()


def test_read_that_never_began_ends_at_once_and_still_gives_back(monkeypatch):
    pool = Pool(monkeypatch, 1)
    first, second = pool.ask(0, 1), pool.ask(1, 1, (FileRange(50, 10, 5),))
    pool.region.wait_for(1)
    with pool.changed:
        pool.threads.cancel(second)
    assert pool.ended == [second]
    pool.region.allow()
    third = pool.ask(2, 1)
    pool.wait(first, third)
    assert pool.region.given_back == [50]
    assert second.arrived == 0
    pool.threads.close()


def test_broken_off_read_goes_on_when_asked_again(monkeypatch):
    pool = Pool(monkeypatch, 1)
    read = pool.ask(0, 3)
    pool.region.wait_for(1)
    with pool.changed:
        pool.threads.cancel(read)
        pool.threads.resume(read)
        pool.threads.resume(read)  # nothing to do
    pool.region.allow()
    pool.wait(read)
    assert read.arrived == 3 * PIECE
    assert pool.ended == [read]
    pool.threads.close()


def test_error_ends_the_read_and_not_the_threads(pool):
    pool.region.error = ValueError("disk")
    read = pool.ask(0, 3)
    pool.region.allow()
    pool.wait(read)
    assert str(read.error) == "disk"
    assert read.arrived == 0
    pool.region.error = None
    other = pool.ask(1, 2)
    pool.wait(other)
    assert other.error is None


def test_idle_threads_ask_for_guesses(pool):
    guessed = Read((0, 9), FileRange(900 * PIECE, PIECE, 1), [])
    pool.idle.append(guessed)
    asked = pool.ask(0, 2)
    pool.region.allow()
    pool.wait(asked, guessed)


def test_close_waits_for_the_pieces_under_way_only(monkeypatch):
    pool = Pool(monkeypatch, 1)
    pool.ask(0, 50)
    pool.region.wait_for(1)
    pool.region.allow(1)
    closer = threading.Thread(target=pool.threads.close)
    closer.start()
    pool.region.allow()
    closer.join(30)
    assert not closer.is_alive()
    assert len(pool.region.brought) < 50


def test_closing_what_never_started_is_nothing(monkeypatch):
    Pool(monkeypatch, 2).threads.close()
