"""What all files of lines have in common."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

from cpumix.errors import ConfigError, FormatError, quoted
from cpumix.input_file import regular

_PIECE = 1 << 20  # bytes that are read at once


class LineFile(ABC):
    """An input file: gives its lines as JSON, and writes a file of the same format with answers."""

    takes_column: bool

    def __init__(self, path: Path, column: str | None) -> None:
        """Look at a file. Raises ConfigError and FormatError if it is none of its kind."""
        self.path = path
        if self.takes_column and column is None:
            raise ConfigError(
                f"--column: expected the name of the column with the prompts of "
                f"{quoted(path.name)}, found none. Give it."
            )
        if not self.takes_column and column is not None:
            raise ConfigError(
                f"--column: expected it for a table only, found {quoted(path.name)}. Leave it out."
            )
        self.column = column or ""

    @abstractmethod
    def lines(self) -> Iterator[bytes | None]:
        """Yield each line as JSON; None for one that is too long."""

    @abstractmethod
    def write(self, target: Path, answers: Iterable[bytes]) -> None:
        """Write a file with the answers, one for each line."""

    def digest(self) -> str:
        """Return what tells the file from others."""
        found = hashlib.blake2b(digest_size=16)
        try:
            with open(self.path, "rb", opener=regular) as file:
                while piece := file.read(_PIECE):
                    found.update(piece)
        except OSError as error:
            raise self._unreadable(error) from error
        return found.hexdigest()

    def _unreadable(self, error: OSError) -> ConfigError:
        return ConfigError(f"batch: cannot read {quoted(self.path)}: {error.strerror or error}.")

    def _damaged(self, kind: str, error: object) -> FormatError:
        return FormatError(
            f"{quoted(self.path)}: expected {kind}, found what is none ({error}). Repair the file."
        )

    def _no_column(self, names: Iterable[str]) -> ConfigError:
        known = ", ".join(quoted(name, 30) for name in list(names)[:20])
        return ConfigError(
            f"--column: expected one of {known}, found {quoted(self.column)}. Name one of them."
        )
