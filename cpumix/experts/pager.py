"""Decides which experts are in memory: keeps them within the budget, reads what the router picks.

The computing thread calls everything here except the two callbacks of the reader threads. All
bookkeeping is guarded by their condition, `changed`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from cpumix.store.bus_guard import BusGuard, check_reads
from cpumix.store.reader import ModelFile

from . import madvise
from .budget import Budget, faults_from_disk
from .counters import Counters
from .dense import DensePart
from .eviction import EvictionPolicy
from .lease import Lease, ReadyExperts
from .readers import Read, ReaderThreads
from .region import MappedRegion
from .resident_set import ResidentSet
from .trace import Trace
from .views import Expert, Key, file_range, view

AHEAD = 2  # reads of a long prompt under way at once: one being read, one waiting its turn
TRUST = 0.6  # the share of guesses that must have been right for the next to be read
MEMORY = 64  # guesses over which that share is taken
FAULTS = 16  # page faults from disk in one pass that are no accident


class ExpertPager:
    """Leases experts by layer and index; see `Lease` for the terms."""

    def __init__(
        self,
        file: ModelFile,
        budget: Budget | None = None,
        *,
        predict: bool = True,
        low_copies: bool = False,
        platform: madvise.Platform | None = None,
    ) -> None:
        """Without a budget, every expert stays once it is read.

        With `low_copies`, those of the file are experts of their own, which follow the others.
        """
        layers, experts = file.config.num_hidden_layers, file.config.num_local_experts
        self.low_copies = low_copies
        self.experts = experts * (1 + low_copies)  # of a layer
        self._file, self._budget, self._predict = file, budget, predict
        self._ranges = {
            (n, e): file_range(file, (n, e)) for n in range(layers) for e in range(self.experts)
        }
        self._views: dict[Key, Expert] = {}
        self._policy = EvictionPolicy(layers, self.experts)
        self._resident_set = ResidentSet(self._ranges, self._policy)
        self.region = MappedRegion(file, platform)
        self.dense = DensePart(file, self.region)
        self._guard = BusGuard(file.address, file.mapped_bytes)
        self._readers = ReaderThreads(self.region, self._finish_read, self._read_ahead)
        self._changed = self._readers.changed
        self._reading: dict[Key, Read] = {}
        self._pinned: set[Key] = set()
        self._expected: set[Key] = set()  # what the next lease will probably ask for
        self._missing_expected: set[Key] = set()  # those of them that were not there
        self._prefetch_queue: list[Key] = []  # those of them to be read when the disk is idle
        self._sure, self._trust = False, 0.0  # the share of guesses that proved right lately
        self._prefetched: set[Key] = set()  # begun for the next lease
        self._position, self._tokens, self._faults = 0, 0, 0
        self._counters = Counters()
        self.trace: Trace | None = None

    # before a pass

    def begin(self, position: int, ids: Sequence[int], full: float = 0.0) -> None:
        """Make ready for a pass of some tokens; `full` is the share of the KV cache in use."""
        self._position, self._tokens = position, len(ids)
        self.dense.bring()
        self.dense.bring_rows(ids, keep=self._budget is None)
        with self._changed:
            self._look_for_losses()
            if self._budget is None:
                return
            self._resident_set.room = self._budget.room(self.resident_bytes, len(ids), full)
            leaving = self._resident_set.make_room(0, self._reading.keys())
        for p in leaving or ():
            self.region.give_back(p.offset, p.nbytes)

    def _look_for_losses(self) -> None:
        """See if the system took resident experts back, and count them as missing."""
        before, self._faults = self._faults, faults_from_disk()
        if self._faults - before > FAULTS:
            for key in list(self._resident_set.present):
                p = self._ranges[key]
                if self.region.missing(p.offset, p.nbytes):
                    self._resident_set.lose(key)

    @property
    def bounded(self) -> bool:
        """Whether there is a budget."""
        return self._budget is not None

    @property
    def resident_bytes(self) -> int:
        """Bytes of experts in memory, those on their way as far as they have come."""
        underway = sum(read.file_range.nbytes - read.arrived for read in self._reading.values())
        return self._resident_set.taken - self._resident_set.missing - underway

    # during a pass

    def lease(
        self, layer: int, used: Sequence[int], topk_ids: NDArray[np.int32]
    ) -> AbstractContextManager[Iterable[ReadyExperts]]:
        """Lease the `used` experts of a layer, which its tokens' routers chose (T, A)."""
        if self._budget is None and self.trace is None:  # what is there stays
            present = self._resident_set.present
            if all((layer, e) in present for e in used):
                self._counters.hits += len(used)
                return nullcontext([ReadyExperts({e: self.view(layer, e) for e in used})])
        self._policy.use(layer, topk_ids)
        with self._changed:
            present = self._resident_set.present
            hits = [e for e in used if (layer, e) in present]
            misses = [e for e in used if (layer, e) not in present]
            misses.sort(key=lambda e: (layer, e) not in self._reading)  # guessed ones come first
            lease = Lease(self, layer, hits, misses)
            self._pinned = lease.pinned
            self._settle_guesses(lease)
        self._counters.hits += len(hits)
        self._counters.misses += len(misses)
        return lease

    def view(self, layer: int, expert: int) -> Expert:
        """Return an expert's weights as views of the map."""
        key = layer, expert
        if key not in self._views:
            self._views[key] = view(self._file, key)
        return self._views[key]

    def start_reads(self, lease: Lease) -> None:
        """Start as many of a lease's reads as there is room for."""
        if not lease.pending:
            return
        with self._changed:
            most = AHEAD if self._tokens > 1 else len(lease.pending)
            while lease.pending and len(lease.reads) < most:
                key = lease.pending[0]
                read = self._reading.get(key)
                if read is not None:
                    self._readers.resume(read)
                elif (read := self._start(key, lease.pinned)) is not None:
                    self._readers.ask(read)
                else:
                    assert lease.pinned, "less room than the experts of one token take"
                    break
                lease.pending.pop(0)
                lease.pinned.add(key)
                lease.reads.append(read)

    def wait(self, read: Read, nbytes: int) -> None:
        """Return when the first bytes of a read are in memory; FormatError if they will not be."""
        with self._changed:
            if read.prefix < nbytes and read.error is None:
                began = perf_counter()
                while read.prefix < nbytes and read.error is None:
                    self._changed.wait(1.0)  # Windows lets Ctrl-C through only between waits
                self._counters.wait_seconds += perf_counter() - began
        if read.error is not None:
            raise read.error

    def check(self) -> None:
        """Raise FormatError if the file failed under a computation, which then saw zeros."""
        check_reads(self._file, self._guard)

    def end(self, lease: Lease, broken: bool) -> None:
        """Take a lease back; when it was broken off, nobody will use what is being read for it."""
        with self._changed:
            self._pinned = set()
            if broken:
                for read in lease.reads:
                    self._readers.cancel(read)
        if self.trace is not None:
            found = {e: e in lease.hits for e in (*lease.hits, *lease.misses)}
            seconds = perf_counter() - lease.began
            self.trace.write(
                self._position, self._tokens, lease.layer, found, seconds, self.resident_bytes
            )

    # guesses

    @property
    def wants_prefetch(self) -> bool:
        """Whether guesses can be of use now: not before the memory is full."""
        return self._predict and self._resident_set.evictions > 0

    def prefetch(self, layer: int, experts: Collection[int], sure: bool = False) -> None:
        """Say which experts the next lease will probably ask for.

        They are read when the disk is idle, if they are `sure` or such guesses have proved right.
        """
        with self._changed:
            self._expected = {(layer, e) for e in experts}
            self._missing_expected = self._expected - self._resident_set.present
            self._sure = sure
            if self._missing_expected and (sure or self._trust >= TRUST):
                self._prefetch_queue = sorted(self._missing_expected)
                self._changed.notify_all()

    def _settle_guesses(self, lease: Lease) -> None:
        """Count the guesses that came true, and break off the reads of the others."""
        used = {(lease.layer, e) for e in (*lease.hits, *lease.misses)}
        if not self._sure:
            for key in self._missing_expected:
                self._trust += ((key in used) - self._trust) / MEMORY
        self._prefetch_queue, self._expected, self._missing_expected = [], set(), set()
        self._counters.predicted_used += len(self._prefetched & used)
        for key in self._prefetched - used:
            if key in self._reading:
                self._readers.cancel(self._reading[key])
        self._prefetched = set()

    def _read_ahead(self) -> Read | None:
        """Begin a guessed read; the reader threads ask when they have nothing else to do."""
        if not self._prefetch_queue or len(self._prefetched) == AHEAD:
            return None
        key = self._prefetch_queue.pop(0)
        kept = self._expected | self._pinned
        read = None if key in self._reading else self._start(key, kept)
        if read is not None:
            self._prefetched.add(key)
            self._counters.predicted += 1
        return read

    # reads; `changed` is held

    def _start(self, key: Key, kept: Collection[Key]) -> Read | None:
        """Make room for an expert and prepare its read; None when nothing may leave."""
        p, leaving = self._ranges[key], None
        if self._tokens > 1:  # a prompt will need those of the layers to come
            coming = {other for other in self._resident_set.present if other[0] > key[0]}
            leaving = self._resident_set.make_room(p.nbytes, coming.union(kept))
        if leaving is None:
            leaving = self._resident_set.make_room(p.nbytes, kept)
        if leaving is None:
            return None
        self._resident_set.reserve(key)
        self._reading[key] = read = Read(key, p, leaving)
        return read

    def _finish_read(self, read: Read) -> None:
        """Enter what a read has brought; the reader threads call this."""
        del self._reading[read.key]
        self._resident_set.arrive(read.key, read.arrived)
        self._counters.peak_resident_bytes = max(
            self._counters.peak_resident_bytes, self.resident_bytes
        )

    @property
    def counters(self) -> Counters:
        """The numbers so far."""
        with self._changed:
            return replace(
                self._counters,
                bytes_read=self._readers.bytes_read,
                read_seconds=self._readers.busy_seconds,
                evictions=self._resident_set.evictions,
                budget_bytes=self._resident_set.room,
            )

    def close(self) -> None:
        """End the threads and drop all views, so that the map can be closed."""
        self._readers.close()
        self._guard.close()
        self._views.clear()
