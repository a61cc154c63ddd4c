"""JSON lines: one object a line, as OpenAI's batches have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cpumix.api.body import MAX_BODY
from cpumix.input_file import regular

from .line_file import LineFile

_MARK = b"\xef\xbb\xbf"  # of UTF-8, as Windows' editors write it


class JsonLines(LineFile):
    """Lines are what they are; empty ones do not count."""

    takes_column = False

    def lines(self) -> Iterator[bytes | None]:  # noqa: D102
        try:
            with open(self.path, "rb", opener=regular) as file:
                while piece := file.readline(MAX_BODY + 1):
                    is_whole = piece.endswith(b"\n") or len(piece) <= MAX_BODY
                    while not piece.endswith(b"\n") and (rest := file.readline(MAX_BODY)):
                        piece = rest  # only its end is of interest
                    if not is_whole:
                        yield None
                    elif line := piece.removeprefix(_MARK).strip():
                        yield line
        except OSError as error:
            raise self._unreadable(error) from error

    def write(self, target: Path, answers: Iterable[bytes]) -> None:  # noqa: D102
        with open(target, "wb") as file:
            file.writelines(answers)
