"""Show how far a long task is, on stderr, when a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from cpumix.units import format_size


@contextmanager
def byte_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that takes the bytes done and the bytes in all and moves a progress bar.

    The bar appears with the first call, because only then is the total known. It stays hidden
    where stderr is not a terminal.
    """
    with ExitStack() as stack:
        bar: Any = None
        done_before = 0

        def show(done_bytes: int, total_bytes: int) -> None:
            nonlocal bar, done_before
            if bar is None:
                new_bar = click.progressbar(
                    length=total_bytes,
                    label=label,
                    item_show_func=_describe,
                    file=sys.stderr,
                    hidden=not sys.stderr.isatty(),
                    update_min_steps=max(total_bytes // 1000, 1),
                )
                bar = stack.enter_context(new_bar)
            bar.update(done_bytes - done_before, done_bytes)
            done_before = done_bytes

        yield show


def _describe(done_bytes: int | None) -> str | None:
    return None if done_bytes is None else format_size(done_bytes)
