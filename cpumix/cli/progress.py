"""Show how far a long task is, on stderr, when a person is watching."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from cpumix.units import format_seconds, format_size

if TYPE_CHECKING:
    from typing_extensions import Self

    from cpumix.batch.relay import Counts

Show = Callable[[int, int], None]

PATIENCE = 2.0  # seconds without news that a person does not mind
NEWS = 0.2  # seconds between two
_CELLS = 20  # of a bar


class StatusLine:
    """A line on stderr for a person who watches: replaced with each news, gone at the end.

    What comes after the end is not shown: another thread may be late with its news.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._width = 0
        self._ended = False

    def __enter__(self) -> Self:
        """Return the line."""
        return self

    def __exit__(self, *error: object) -> None:
        """Take the line away for good."""
        self._ended = True
        self.clear()

    def clear(self) -> None:
        """Take the line away."""
        if self._width:
            click.echo(f"\r{'':{self._width}}\r", nl=False, err=True)
            self._width = 0

    def _say(self, text: str) -> None:
        if not self._ended and sys.stderr.isatty():
            click.echo(f"\r{text:{self._width}}", nl=False, err=True)
            self._width = len(text)


class PromptStatus(StatusLine):
    """Says how far a prompt is, and how long it will take."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at = self._began
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        """Take the tokens of the prompt that are done, and all there are."""
        now = time.monotonic()
        if self._first is None:
            self._first = done  # so many were in the cache
        if done == total:
            self.clear()
        elif min(now - self._began - PATIENCE, now - self._said_at - NEWS) >= 0:
            made = done - self._first
            left = (now - self._began) * (total - done) / max(made, 1)
            after = f", {format_seconds(left)} left" if made else ""
            self._say(f"prompt: {done} of {total} tokens{after}")
            self._said_at = now


class LineStatus(StatusLine):
    """Says how far a batch is."""

    def __init__(self, total: int, kept: int) -> None:
        """Begin to count; `kept` of `total` lines were done before."""
        super().__init__()
        self._total, self._kept = total, kept

    def __call__(self, done: int, counts: Counts) -> None:
        """Take how many lines are done now, and the counts of tokens."""
        seconds = time.monotonic() - self._began
        after = ""
        if self._kept < done < self._total:
            left = seconds * (self._total - done) / (done - self._kept)
            after = f", {format_seconds(left)} left"
        filled = done * _CELLS // self._total
        bar = "#" * filled + "-" * (_CELLS - filled)
        rate = counts.written_tokens / max(seconds, 1e-6)
        self._say(
            f"[{bar}] {done} of {self._total} lines{after}, {rate:.1f} tok/s, "
            f"{counts.written_tokens} tokens"
        )


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
