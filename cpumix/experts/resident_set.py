"""The books of the pager: which experts are in memory, what they take, and who goes next."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .eviction import EvictionPolicy
from .views import FileRange, Key


class ResidentSet:
    """Experts in memory, or on their way; sizes in bytes. Knows nothing of threads or files."""

    def __init__(self, places: Mapping[Key, FileRange], policy: EvictionPolicy) -> None:
        self._places, self._policy = places, policy
        self.room = sum(p.nbytes for p in places.values())
        self.present: set[Key] = set()
        self._reserved: set[Key] = set()  # being read
        self._remains: dict[Key, int] = {}  # partly in memory, good for nothing; missing bytes
        self.taken = 0  # by all three
        self.evictions = 0

    @property
    def missing(self) -> int:
        """Bytes of what remains of broken-off reads that are counted as taken and not there."""
        return sum(self._remains.values())

    def make_room(self, nbytes: int, kept: Collection[Key]) -> list[FileRange] | None:
        """Strike out experts, but none of `kept`, so that `nbytes` fit; None if that is not enough.

        Returns the places that must be given back.
        """
        excess = self.taken + nbytes - self.room
        if excess <= 0:
            return []
        leaving, candidates = list(self._remains), None
        excess -= sum(self._places[key].nbytes for key in leaving)
        while excess > 0:
            if candidates is None:
                candidates = self.present.difference(kept)
            if not candidates:
                return None
            key = self._policy.least(candidates)
            candidates.remove(key)
            leaving.append(key)
            excess -= self._places[key].nbytes
        for key in leaving:
            self._strike(key)
        return [self._places[key] for key in leaving]

    def _strike(self, key: Key) -> None:
        if key in self.present:
            self.present.remove(key)
            self.evictions += 1
        else:
            del self._remains[key]
        self.taken -= self._places[key].nbytes

    def reserve(self, key: Key) -> None:
        """Keep room for an expert that is about to be read."""
        if key in self._remains:  # what is left of it helps
            del self._remains[key]
        else:
            self.taken += self._places[key].nbytes
        self._reserved.add(key)

    def arrive(self, key: Key, nbytes: int) -> None:
        """Enter an expert whose read has ended, with fewer `nbytes` than it has if broken off."""
        self._reserved.remove(key)
        if missing := self._places[key].nbytes - nbytes:
            self._remains[key] = missing
        else:
            self.present.add(key)

    def lose(self, key: Key) -> None:
        """Count an expert as gone, because the system has taken some of it back."""
        self.present.remove(key)
        self._remains[key] = 0
