"""The parts of a batch answered in this process."""

from __future__ import annotations

import queue
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from .relay import Counts
from .settings import Settings
from .worker import PARTS_AT_ONCE, Answered, ModelOptions, Part, Worker


class CrewHere:
    """One model, and a thread for each part that is under way."""

    def __init__(self, options: ModelOptions, settings: Settings) -> None:
        """Load the model. Raises what `cpumix.load` does."""
        self._worker = Worker(options, settings)
        self._threads = ThreadPoolExecutor(PARTS_AT_ONCE, "cpumix batch")
        self._ended = queue.SimpleQueue[Future[Answered]]()
        self._given = 0

    @property
    def notes(self) -> list[str]:
        """What the user should know about memory, a line each."""
        return self._worker.notes

    @property
    def free(self) -> int:  # noqa: D102
        return PARTS_AT_ONCE - self._given

    @property
    def counts(self) -> Counts:  # noqa: D102
        return self._worker.counts

    def give(self, part: Part) -> None:  # noqa: D102
        self._given += 1
        self._threads.submit(self._worker.run, part).add_done_callback(self._ended.put)

    def take(self, seconds: float) -> list[Answered]:  # noqa: D102
        with suppress(queue.Empty):
            future = self._ended.get(timeout=seconds)
            self._given -= 1
            return [future.result()]
        return []

    def close(self) -> None:  # noqa: D102
        self._worker.close()
        self._threads.shutdown()
