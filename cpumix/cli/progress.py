"""Show how far a long task is, on stderr, when a person is watching."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import click

from cpumix.units import format_size

Show = Callable[[int, int], None]


def byte_progress(label: str) -> AbstractContextManager[Show]:
    """Yield a function that takes the bytes done and the bytes in all, and moves a bar."""
    return progress_bar(label, format_size)


@contextmanager
def progress_bar(label: str, describe: Callable[[int], str]) -> Iterator[Show]:
    """Yield a function that takes what is done and what there is in all, and moves a bar.

    `describe` says in words what is done. The bar appears with the first call, because only then
    is the total known. It stays hidden where stderr is not a terminal.
    """
    with ExitStack() as stack:
        bar: Any = None
        done_before = 0

        def show(done: int, total: int) -> None:
            nonlocal bar, done_before
            if bar is None:
                new_bar: Any = click.progressbar(
                    length=total,
                    label=label,
                    item_show_func=lambda done: None if done is None else describe(done),
                    file=sys.stderr,
                    hidden=not sys.stderr.isatty(),
                    update_min_steps=max(total // 1000, 1),
                )
                bar = stack.enter_context(new_bar)
            bar.update(done - done_before, done)
            done_before = done

        yield show
