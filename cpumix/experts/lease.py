"""What the model holds while it computes: experts of one layer, in the order they are ready."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from time import perf_counter
from types import TracebackType
from typing import NamedTuple, Protocol

from .readers import Read
from .views import Expert, Key


class Lender(Protocol):
    """What a lease asks of the pager that gave it."""

    def view(self, layer: int, expert: int) -> Expert:
        """Return an expert's weights."""

    def start_reads(self, lease: Lease) -> None:
        """Start as many of a lease's reads as there is room for."""

    def wait(self, read: Read, nbytes: int) -> None:
        """Return when the first bytes of a read are in memory."""

    def end(self, lease: Lease, broken: bool) -> None:
        """Take a lease back."""


class ReadyExperts(NamedTuple):
    """Experts that can be computed together, by index; not to be used after the next ones.

    Resident ones come together, without a `read`; one that is being read comes alone, and may be
    computed as far as it has arrived. Waiting raises FormatError when the file does not give it.
    """

    experts: Mapping[int, Expert]
    pager: Lender | None = None
    read: Read | None = None

    def wait_for_gate_up(self) -> None:
        """Return when w1 and w3 are in memory."""
        if self.pager and self.read:
            self.pager.wait(self.read, self.read.file_range.gate_up)

    def wait_for_down(self) -> None:
        """Return when w2 is, too."""
        if self.pager and self.read:
            self.pager.wait(self.read, self.read.file_range.nbytes)


class Lease:
    """The resident experts first, then each missing one as it arrives; a context manager.

    The reads of as many missing ones as there is room for begin on entering. An expert cannot be
    evicted from the start of its read until the experts after it are asked for.
    """

    def __init__(self, pager: Lender, layer: int, hits: list[int], misses: list[int]) -> None:
        self.layer, self.hits, self.misses = layer, hits, misses
        self.pinned = {(layer, e) for e in hits}
        self.pending = [(layer, e) for e in misses]
        self.reads: list[Read] = []
        self.began = perf_counter()
        self._pager = pager

    def __enter__(self) -> Iterator[ReadyExperts]:
        """Start the reads and return the experts."""
        self._pager.start_reads(self)
        return self._experts()

    def _experts(self) -> Iterator[ReadyExperts]:
        if self.hits:
            yield ReadyExperts({e: self._pager.view(self.layer, e) for e in self.hits})
            self._unpin({(self.layer, e) for e in self.hits})
        while self.reads:
            read = self.reads.pop(0)
            expert = self._pager.view(*read.key)
            yield ReadyExperts({read.key[1]: expert}, self._pager, read)
            self._unpin({read.key})

    def _unpin(self, keys: set[Key]) -> None:
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
