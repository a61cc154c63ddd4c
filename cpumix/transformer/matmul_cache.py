"""Groups of matrix products that recur, laid out once."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from cpumix.kernels.operands import MatmulGroup

MOST_KEPT = 4096  # pairs of groups; of many experts, few sets recur

Groups = tuple[MatmulGroup, MatmulGroup]


class MatmulCache:
    """Keeps groups by what they depend on: to lay out a token's takes as long as a small layer."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Groups] = {}

    def get(self, key: Hashable, make: Callable[[], Groups]) -> Groups:
        """Return the groups of this key, made by `make` if they are new; without a key, always."""
        if key is None:
            return make()
        if key not in self._kept:
            if len(self._kept) == MOST_KEPT:
                self._kept.clear()
            self._kept[key] = make()
        return self._kept[key]
