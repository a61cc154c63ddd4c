"""What the model holds while it computes: experts of one layer, in the order they are ready."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING

from .readers import Read
from .views import Expert

if TYPE_CHECKING:
    from .pager import ExpertPager


class ReadyExperts:
    """Experts that can be computed together, by index; not to be used after the next part."""

    def __init__(self, experts: dict[int, Expert]) -> None:
        self.experts = experts

    def wait_for_gates(self) -> None:
        """Return when w1 and w3 are in memory."""

    def wait_for_rest(self) -> None:
        """Return when w2 is, too."""


class LoadingExpert(ReadyExperts):
    """One expert on its way into memory."""

    def __init__(self, pager: ExpertPager, expert: Expert, read: Read) -> None:
        super().__init__({read.key[1]: expert})
        self._pager, self._read = pager, read

    def wait_for_gates(self) -> None:
        """Return when w1 and w3 are in memory; FormatError when the file does not give them."""
        self._pager.wait(self._read, self._read.file_range.gates)

    def wait_for_rest(self) -> None:
        """Return when w2 is, too; FormatError when the file does not give it."""
        self._pager.wait(self._read, self._read.file_range.nbytes)


class WholeLease:
    """All experts are resident and will stay: nothing to wait for, nothing to pin."""

    def __init__(self, experts: dict[int, Expert]) -> None:
        self._experts = experts

    def __enter__(self) -> Iterator[ReadyExperts]:
        """Return the only part."""
        return iter((ReadyExperts(self._experts),))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing."""


class Lease:
    """The resident experts first, then each missing one as it arrives; a context manager.

    The reads of as many missing ones as there is room for begin on entering. An expert cannot
    leave from its read's beginning until the part after it is asked for.
    """

    def __init__(self, pager: ExpertPager, layer: int, hits: list[int], misses: list[int]) -> None:
        self.layer, self.hits, self.misses = layer, hits, misses
        self.pinned = {(layer, e) for e in hits}
        self.pending = [(layer, e) for e in misses]
        self.reads: list[Read] = []
        self.began = perf_counter()
        self._pager = pager

    def __enter__(self) -> Iterator[ReadyExperts]:
        """Start the reads and return the parts."""
        self._pager.start_reads(self)
        return self._parts()

    def _parts(self) -> Iterator[ReadyExperts]:
        if self.hits:
            yield ReadyExperts({e: self._pager.view(self.layer, e) for e in self.hits})
            self._release({(self.layer, e) for e in self.hits})
        while self.reads:
            read = self.reads.pop(0)
            yield LoadingExpert(self._pager, self._pager.view(*read.key), read)
            self._release({read.key})

    def _release(self, keys: set[tuple[int, int]]) -> None:
        self.pinned -= keys
        self._pager.start_reads(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of everything, reads that nobody will wait for included."""
        self._pager.end(self, error is not None)
