"""Side files of which some are written when they are read: a GGUF file's tokenizer is no file yet.

Whoever plans needs its size alone, and the writing takes longer than all else in a header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple


class LateFile(NamedTuple):
    """A file that is not written yet."""

    write: Callable[[], bytes]
    count_solid: Callable[[], int]
    """Returns what `solid_bytes` does of the written file."""


class LateFiles(Mapping[str, bytes]):
    """Files by name, each written when it is first read."""

    def __init__(self, files: Mapping[str, bytes | LateFile]) -> None:
        self._files = dict(files)

    def __getitem__(self, name: str) -> bytes:
        """Return a file, written now if it was not yet."""
        found = self._files[name]
        if isinstance(found, LateFile):
            self._files[name] = found = found.write()
        return found

    def __contains__(self, name: object) -> bool:
        """Tell whether there is such a file; does not write it."""
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._files)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._files)

    def solid_bytes(self, name: str) -> int:
        """Return what `solid_bytes` does of a file; does not write it."""
        found = self._files[name]
        return found.count_solid() if isinstance(found, LateFile) else solid_bytes(found)


def solid_bytes(data: bytes) -> int:
    """Count the bytes of a text that are neither blanks nor line ends."""
    return len(data) - data.count(b" ") - data.count(b"\n")
