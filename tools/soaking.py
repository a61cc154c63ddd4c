"""What tools that keep a model busy for minutes share: words of prompts, and a watch on memory."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable

WORDS = "and they returned to the city of the king who was with him in those days".split()


class MemoryWatch(threading.Thread):
    """Samples a process's resident memory until stopped."""

    def __init__(self, read: Callable[[], int], seconds: float) -> None:
        """Watch what `read` returns, in bytes, every so many seconds."""
        super().__init__(daemon=True)
        self.samples: list[int] = []
        self._read, self._seconds = read, seconds
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Sample."""
        while not self._stop_asked.wait(self._seconds):
            self.samples.append(self._read())

    def stop(self) -> None:
        """End the thread."""
        self._stop_asked.set()
        self.join()

    def growth(self) -> float:
        """Return the last quarter's median as a multiple of the second's."""
        quarter = max(len(self.samples) // 4, 1)
        early, late = self.samples[quarter : 2 * quarter], self.samples[-quarter:]
        return statistics.median(late) / statistics.median(early or late)
