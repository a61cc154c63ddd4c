"""How much of a prompt's work is done."""

from __future__ import annotations

from collections.abc import Callable


def layers_done(
    progress: Callable[[int, int], None], first: int, count: int, n: int, layers: int
) -> Callable[[int], None]:
    """Return what reports that `count` tokens of n, from the `first` on, are through a layer."""
    return lambda done: progress(layers * first + done * count, layers * n)
