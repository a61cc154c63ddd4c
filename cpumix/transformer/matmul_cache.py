"""Matrix products that recur, laid out once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cpumix.kernels.operands import Matmul, MatmulGroup

MOST_KEPT = 4096  # pairs; of many experts, few sets recur
KEPT_ROWS = 32  # batches of up to so many rows recur: sequences that write

T = TypeVar("T", Matmul, MatmulGroup)


class MatmulCache(Generic[T]):
    """Keeps pairs of products, or of groups of them, by what they depend on.

    To lay out a token's takes as long as a small layer.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[T, T]] = {}

    def get(self, key: Hashable, make: Callable[[], tuple[T, T]]) -> tuple[T, T]:
        """Return the pair of this key, made by `make` if it is new; without a key, always."""
        if key is None:
            return make()
        if key not in self._kept:
            if len(self._kept) == MOST_KEPT:
                self._kept.clear()
            self._kept[key] = make()
        return self._kept[key]
