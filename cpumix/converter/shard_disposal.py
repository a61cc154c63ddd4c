"""Deletes the shards of a download, each as soon as the last of its tensors is converted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

Use = tuple[frozenset[Path], int]
"""The files that a slice is read from, and the bytes that it becomes."""


class ShardDisposal:
    """Counts what is still to be read from each shard."""

    def __init__(self, slices: Iterable[Use]) -> None:
        self._left = Counter(path for paths, _ in slices for path in paths)

    def done(self, paths: frozenset[Path]) -> None:
        """Count one slice as converted; delete the shards that nothing else is read from."""
        self._left.subtract(paths)
        for path in paths:
            if not self._left[path]:
                delete(path)


def delete(path: Path) -> None:
    """Delete a file, and what it links to: the hub's cache keeps files under another name."""
    kept = path.resolve()
    path.unlink(missing_ok=True)
    kept.unlink(missing_ok=True)


def most_space(slices: Iterable[Use]) -> int:
    """Return the bytes of disk that the target takes beyond what deleted shards have given back.

    That is the most at any time, as the target grows slice by slice.
    """
    uses = list(slices)
    last = {path: i for i, (paths, _) in enumerate(uses) for path in paths}
    most = now = 0
    for i, (paths, nbytes) in enumerate(uses):
        now += nbytes
        most = max(most, now)
        now -= sum(path.stat().st_size for path in paths if last[path] == i)
    return most
