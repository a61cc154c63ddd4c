"""Deletes the shards of a download, each as soon as the last of its tensors is converted.

Those that are not here yet are fetched one after the other, the next while one is converted. So two
lie on the disk at a time, and more only if what is converted is read from more.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from cpumix.checkpoint import Checkpoint
from cpumix.hub import HubShards
from cpumix.store import TensorEntry

from .slices import Slice, target_bytes

Use = tuple[frozenset[Path], int]
"""The files that some slices are read from, and the bytes that they become."""


class ShardDisposal:
    """Counts what is still to be read from each shard; `stop` ends what is being downloaded.

    `slices` are the files that each is read from, in the order in which they are converted.
    Only files in `folder` are ever deleted: what is read may be an adapter, or of the user's own.
    """

    def __init__(
        self, slices: Sequence[frozenset[Path]], folder: Path, shards: HubShards | None = None
    ) -> None:
        self._left = Counter(path for paths in slices for path in paths)
        self._folder, self._shards = folder, shards
        self._order = [path for path in self._left if path.parent == folder]
        self._latest = 0  # place in this order: those behind it have not been begun
        self._following = 0  # place of the one after those that were needed
        self._lock = threading.Lock()
        for path in shards.sizes if shards else ():
            if not self._left[path]:  # of an interrupted conversion
                delete(path)

    def need(self, paths: frozenset[Path]) -> None:
        """Have the shards here that a slice is read from, and soon the one after them."""
        if self._shards is None:
            return
        for i, path in enumerate(self._order):
            if path in paths:
                self._shards.fetch(path)
                self._following = max(self._following, i + 1)
        self._fetch_ahead()

    def done(self, paths: frozenset[Path]) -> None:
        """Count one slice as converted; delete the shards that nothing else is read from."""
        self._left.subtract(paths)
        for path in paths:
            if not self._left[path] and path.parent == self._folder:
                delete(path)
        self._fetch_ahead()

    def _fetch_ahead(self) -> None:
        """Begin with the shard after those that were needed, once only one of them is here."""
        with self._lock:
            following = self._following
            if self._shards is None or not self._latest < following < len(self._order):
                return  # begun with: it may have been deleted since
            if sum(path.exists() for path in self._order) < 2:
                self._latest = following
                self._shards.fetch_ahead(self._order[following])

    def stop(self) -> None:
        """End a download that is going on."""
        if self._shards is not None:
            self._shards.close()


def delete(path: Path) -> None:
    """Delete a file, and what it links to: the hub's cache keeps files under another name."""
    path.resolve().unlink(missing_ok=True)  # first: what no longer exists takes no space
    path.unlink(missing_ok=True)


def order_by_shards(checkpoint: Checkpoint, entries: Sequence[TensorEntry]) -> list[TensorEntry]:
    """Return the tensors so that shards are read one after the other.

    What lies in two shards comes when the later one is begun, and before all else in it: so the
    earlier one can go.
    """
    shards = {p for tensor in checkpoint.tensors.values() for p in tensor.paths}
    place = {path: i for i, path in enumerate(sorted(shards))}

    def key(entry: TensorEntry) -> tuple[int, int]:
        places = [place[p] for part, _ in entry.parts for p in checkpoint.tensors[part].paths]
        return max(places), min(places)

    return sorted(entries, key=key)


def written_together(slices: Iterable[Slice]) -> Iterator[Use]:
    """Yield what each expert, and each layer's dense part, is read from and becomes.

    So much may be read before any of it is written, and its shards may go: all of it in a
    calibrated conversion, and in any other the slices on both sides of a shard's end.
    """
    for _, group in groupby(slices, lambda s: (s.entry.spec.layer, s.entry.spec.expert)):
        own = list(group)
        yield frozenset[Path]().union(*(s.source.paths for s in own)), sum(map(target_bytes, own))


def most_space(slices: Iterable[Use], folder: Path, shards: HubShards | None, target: Path) -> int:
    """Return the bytes of disk that are needed beyond what deleted shards have given back.

    That is the most at any time, as the target grows slice by slice. If shards lie on another disk,
    it is all of the target.
    """
    uses = list(slices)
    if target.parent.is_dir() and os.stat(folder).st_dev != os.stat(target.parent).st_dev:
        return sum(nbytes for _, nbytes in uses)
    first: dict[Path, int] = {}
    last: dict[Path, int] = {}
    for i, (paths, _) in enumerate(uses):
        for path in paths:
            if path.parent == folder:
                first.setdefault(path, i)
                last[path] = i
    sizes = {p: shards.sizes[p] if shards else p.stat().st_size for p in first}
    order = list(first)
    fetched = Counter[int]()
    for path, before in zip(order, order[:1] + order, strict=False):
        if not path.exists():
            fetched[first[before]] += sizes[path]  # while the one before it is converted
    most = now = 0
    for i, (paths, nbytes) in enumerate(uses):
        now += nbytes + fetched[i]
        most = max(most, now)
        now -= sum(sizes[path] for path in paths if last.get(path) == i)
    return most
