"""Numba's disk cache, for a folder that other processes use and that may be full or damaged.

Numba reads a function's index, adds an entry and writes it back. Two processes that did so at once
could give two signatures one file, and one of them would run the other's machine code. So those who
write take turns; whoever reads sees whole files, because each is renamed into place.

Each file begins with the hash of the rest: a changed byte of machine code would be run, and what a
changed byte of a pickle ends in nobody can tell.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = "lock"  # a file in the cache folder; whoever holds it writes
DIGEST_BYTES = hashlib.sha256().digest_size


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait until no other process writes in `folder`; raises OSError where there are no locks."""
    with open(folder / LOCK, "ab") as file:  # closing it ends the turn
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class SealedFiles(IndexDataCacheFile):  # type: ignore[misc]
    """The index and the data files of one function; a damaged one counts as absent."""

    def _load_index(self) -> dict[Any, str]:
        """Return which file holds which signature."""
        try:
            stamp, files = pickle.loads(_unseal(self._index_path))
        except OSError:
            return {}
        return files if stamp == self._source_stamp else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._seal(self._index_path, self._dump((self._source_stamp, overloads)))

    def _load_data(self, name: str) -> Any:
        """Return what was compiled. Raises OSError, which Numba takes for an absent file."""
        return pickle.loads(_unseal(self._data_path(name)))

    def _save_data(self, name: str, data: Any) -> None:
        self._seal(self._data_path(name), self._dump(data))

    def _seal(self, path: str, data: bytes) -> None:
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(data).digest() + data)


def _unseal(path: str) -> bytes:
    """Return what was sealed in a file. Raises OSError if it is not whole."""
    found = Path(path).read_bytes()
    digest, data = found[:DIGEST_BYTES], found[DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise OSError(f"damaged: {path}")
    return data


class CodeCache(FunctionCache):  # type: ignore[misc]
    """The machine code of one function, one file for each signature and set of options."""

    def __init__(self, function: Callable[..., Any], folder: Path, **options: Any) -> None:
        super().__init__(function)
        self._folder, self._options = folder, sorted(options.items())
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = SealedFiles(self._cache_path, self._impl.filename_base, stamp)

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what was compiled; where that fails, the next process compiles again."""
        with suppress(OSError), turn(self._folder):
            super().save_overload(signature, compiled)

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        """Name an entry: by the options too, which Numba's own name leaves out.

        Numba also takes in what a function's closure holds, pickled, which differs from process to
        process where that is another kernel. The function's name tells as much (`specialised`).
        """
        if self._py_func.__closure__ is None:
            return super()._index_key(signature, codegen), repr(self._options)
        return signature, codegen.magic_tuple(), repr(self._options)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return what was kept; None, so that it is compiled, if nothing is or it is damaged."""
        with suppress(OSError):
            return super().load_overload(signature, context)
        return None
