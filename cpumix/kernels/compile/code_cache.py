"""Numba's disk cache, for a folder that other processes use and that may be full or damaged.

Numba reads a function's index, adds an entry and writes it back. Two processes that did so at once
could give two signatures one file, and one of them would run the other's machine code. So those who
write take turns; whoever reads sees whole files, because each is renamed into place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from numba.core.caching import FunctionCache

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = "lock"  # a file in the cache folder; whoever holds it writes
DAMAGE = EOFError, UnpicklingError  # what reading a file that was cut off ends in


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait until no other process writes in `folder`; raises OSError where there are no locks."""
    with open(folder / LOCK, "ab") as file:  # closing it ends the turn
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class CodeCache(FunctionCache):  # type: ignore[misc]
    """The machine code of one function, one file for each signature and set of options."""

    def __init__(self, function: Callable[..., Any], folder: Path, **options: Any) -> None:
        super().__init__(function)
        self._folder, self._options = folder, sorted(options.items())

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what was compiled; where that fails, the next process compiles again."""
        with suppress(OSError), turn(self._folder):
            try:
                super().save_overload(signature, compiled)
            except DAMAGE:
                self.flush()  # the index, which then starts anew
                super().save_overload(signature, compiled)

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        """Name an entry; by the options too, which Numba's own name leaves out."""
        return super()._index_key(signature, codegen), repr(self._options)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return what was kept; None, so that it is compiled, if nothing is or it is damaged."""
        with suppress(OSError, *DAMAGE):
            return super().load_overload(signature, context)
        return None
