"""Threads that read ranges of the file, in order, in pieces; they only make system calls.

They share each read piece by piece: that keeps a disk busier than one would, and the first expert
is complete as early as can be. All state is guarded by one condition, `changed`, which is also the
pager's lock and tells the computing thread that something has arrived.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter

from .region import MappedRegion
from .views import FileRange, Key

# Four pieces of 4 MiB on their way: 1.26 GB/s from a disk that gives 1.2-1.35 to direct reads;
# two of 8 MiB reach 1.16 (tools/bench_paging.py). And small ones complete a start sooner.
PIECE = 4 << 20  # bytes
THREADS = 4


def first_piece(offset: int, nbytes: int) -> int:
    """Return how much of a range of the file one thread takes: up to a multiple of PIECE."""
    return min(PIECE - offset % PIECE, nbytes)


class Read:
    """One expert on its way into memory."""

    def __init__(self, key: Key, file_range: FileRange, leaving: list[FileRange]) -> None:
        self.key, self.file_range = key, file_range
        self.leaving = leaving  # given back before the first piece comes
        self.end = file_range.nbytes  # earlier when it is broken off
        self.asked = 0  # bytes handed to threads
        self.arrived = 0
        self.under_way: set[int] = set()  # first bytes of the pieces that threads work on
        self.error: Exception | None = None

    @property
    def prefix(self) -> int:
        """Bytes from the start that are all there."""
        return min(self.under_way, default=self.asked)


class ReaderThreads:
    """Reads in the order they were asked for; started with the first one."""

    def __init__(
        self,
        region: MappedRegion,
        on_end: Callable[[Read], None],
        on_idle: Callable[[], Read | None],
    ) -> None:
        """Call `on_end` once for each read that has begun, and `on_idle` when the queue is empty.

        Both are called by the threads, with `changed` held.
        """
        self.changed = threading.Condition()
        self.busy_seconds = 0.0  # in which at least one thread was reading
        self.bytes_read = 0
        self._region, self._on_end, self._on_idle = region, on_end, on_idle
        self._queue: deque[Read] = deque()  # those with pieces that no thread has taken
        self._leaving: set[int] = set()  # offsets of what is being given back right now
        self._left_over: list[FileRange] = []  # to be given back for reads that never began
        self._threads: list[threading.Thread] = []
        self._busy, self._busy_since, self._closed = 0, 0.0, False

    def start(self) -> None:
        """Start the threads, if they are not yet running."""
        while len(self._threads) < THREADS:
            thread = threading.Thread(target=self._work, name="cpumix reader", daemon=True)
            self._threads.append(thread)
            thread.start()

    def ask(self, read: Read) -> None:
        """Queue a read; call with `changed` held."""
        self.start()
        self._queue.append(read)
        self.changed.notify_all()

    def cancel(self, read: Read) -> None:
        """Break a read off after the pieces under way; call with `changed` held."""
        if self._stop(read) and not read.under_way:
            self._on_end(read)
        self.changed.notify_all()  # what was to leave for it leaves all the same

    def resume(self, read: Read) -> None:
        """Go on with a read that was broken off but has not ended; call with `changed` held."""
        if read.end < read.file_range.nbytes and read.error is None:
            read.end = read.file_range.nbytes
            self.ask(read)

    def _stop(self, read: Read) -> bool:
        """Hand out no more pieces; tell whether there were any."""
        read.end = read.asked
        self._left_over += read.leaving
        read.leaving = []
        if read not in self._queue:
            return False
        self._queue.remove(read)
        return True

    def close(self) -> None:
        """Drop what is queued and end the threads; waits for the pieces under way."""
        with self.changed:
            self._closed = True
            self._queue.clear()
            self.changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with self.changed:
            while not self._closed:
                if not self._queue and (read := self._on_idle()) is not None:
                    self._queue.append(read)
                if not self._queue and self._left_over:
                    self._give_back()
                elif not self._queue or self._queue[0].file_range.offset in self._leaving:
                    self.changed.wait()
                else:
                    self._take(self._queue[0])

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be given back; ask with `changed` held."""
        return not self._left_over and not self._leaving

    def _give_back(self) -> None:
        """Give back what was to leave for reads that never began; the lock is free meanwhile."""
        leaving, self._left_over = self._left_over, []
        offsets = {p.offset for p in leaving}
        self._leaving |= offsets
        self.changed.release()
        try:
            for p in leaving:
                self._region.give_back(p.offset, p.nbytes)
        finally:
            self.changed.acquire()
        self._leaving -= offsets
        self.changed.notify_all()

    def _take(self, read: Read) -> None:
        """Bring the next piece of a read; the lock is free meanwhile."""
        first = read.asked
        nbytes = first_piece(read.file_range.offset + first, read.end - first)
        read.asked += nbytes
        read.under_way.add(first)
        if read.asked == read.end:
            self._queue.popleft()
        leaving = read.leaving + self._left_over
        read.leaving, self._left_over = [], []
        offsets = {p.offset for p in leaving}
        self._leaving |= offsets
        if self._busy == 0:
            self._busy_since = perf_counter()
        self._busy += 1
        self.changed.release()
        try:
            error, missing = self._bring(read.file_range.offset + first, nbytes, leaving)
        finally:
            self.changed.acquire()
        self._leaving -= offsets
        self._busy -= 1
        if self._busy == 0:
            self.busy_seconds += perf_counter() - self._busy_since
        read.under_way.remove(first)
        if error is None:
            read.arrived += nbytes
            self.bytes_read += missing
        elif read.error is None:
            read.error = error
            self._stop(read)
        if not read.under_way and read.asked == read.end:
            self._on_end(read)
        self.changed.notify_all()

    def _bring(
        self, offset: int, nbytes: int, leaving: list[FileRange]
    ) -> tuple[Exception | None, int]:
        """Give back what leaves, then bring a range; return what went wrong, and the bytes read."""
        try:
            for p in leaving:
                self._region.give_back(p.offset, p.nbytes)
            missing = self._region.missing(offset, nbytes)
            self._region.bring(offset, nbytes)
        except Exception as e:  # carried to the thread that waits
            return e, 0
        return None, missing
