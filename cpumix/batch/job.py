"""A batch from its first line to its output, whoever answers the lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import msgspec

from cpumix.errors import ConfigError, quoted
from cpumix.input_file import regular
from cpumix.store.naming import rename_new
from cpumix.store.temporary import sync_folder

from .files.line_file import LineFile
from .parts import PartsFolder, folder_of
from .relay import Counts
from .worker import Answered, Part

REPORT_SECONDS = 0.5  # seconds between two reports
Show = Callable[[int, Counts], None]
"""Gets how many lines are answered, and the counts."""


class Crew(Protocol):
    """Those who answer parts."""

    @property
    def free(self) -> int:
        """How many more parts can be given."""

    @property
    def counts(self) -> Counts:
        """What has been done so far."""

    def give(self, part: Part) -> None:
        """Let a part be answered."""

    def take(self, seconds: float) -> list[Answered]:
        """Return the parts that are answered, waiting for one. Raises CpumixError, OSError."""

    def close(self) -> None:
        """Break off what is under way."""


@dataclass
class BatchReport:
    """How a batch has gone."""

    lines: int
    kept: int
    """Lines of parts that were done before."""
    failed: int = 0
    first_failure: str = ""
    """The line and the message of the first one."""
    passed_over: set[str] = field(default_factory=set)
    counts: Counts = field(default_factory=Counts)


class BatchJob:
    """What is to be done: the lines of a file, in parts."""

    def __init__(self, source: LineFile, target: Path, part_lines: int) -> None:
        """Count the lines. Raises ConfigError and FormatError for a file that cannot be read."""
        self.source, self.target, self._part_lines = source, target, part_lines
        self.digest = source.digest()
        self.lines = sum(1 for _ in source.lines())
        if not self.lines:
            raise ConfigError(
                f"batch: expected lines in {quoted(source.path)}, found none. Write some there."
            )

    def check_target(self, force: bool) -> None:
        """Raise ConfigError if the output cannot be written, or may not be replaced."""
        target, exists = self.target, self.target.exists()
        if not target.parent.is_dir():
            raise ConfigError(
                f"batch: expected a folder for the output, found none at {quoted(target.parent)}. "
                "Create it first."
            )
        if target.is_dir() or (exists and target.samefile(self.source.path)):
            raise ConfigError(
                f"batch: expected another file for the output than {quoted(target)}, which is "
                "the input or a folder. Name another one."
            )
        if exists and not force and not folder_of(target).exists():
            raise self._exists()

    def _exists(self) -> ConfigError:
        return ConfigError(
            f"batch: expected a new name for the output, found a file at {quoted(self.target)}. "
            "Use --force to replace it, or name another one."
        )

    def depends_on(self, model: str, settings: dict[str, Any], version: str) -> dict[str, Any]:
        """Return all that the parts depend on."""
        return {
            "cpumix": version,
            "model": model,
            "input": self.digest,
            "column": self.source.column,
            "part_lines": self._part_lines,
            **settings,
        }

    def parts(self) -> Iterator[Part]:
        """Yield the parts in order."""
        lines, number = self.source.lines(), 0
        while part := list(islice(lines, self._part_lines)):
            yield Part(number, number * self._part_lines, part)
            number += 1

    def kept(self, parts: PartsFolder) -> int:
        """Return how many lines are answered already."""
        return sum(
            min(self._part_lines, self.lines - number * self._part_lines)
            for number in parts.numbers()
        )

    def run(self, parts: PartsFolder, crew: Crew, show: Show) -> BatchReport:
        """Answer all lines that are not yet answered."""
        report = BatchReport(self.lines, self.kept(parts))
        left = (part for part in self.parts() if not parts.has(part.number))
        given, part = 0, next(left, None)
        while part or given:
            while part and crew.free > 0:
                crew.give(part)
                given, part = given + 1, next(left, None)
            for answered in crew.take(REPORT_SECONDS):
                parts.put(answered.number, answered.data)
                report.passed_over |= answered.passed_over
                given -= 1
            report.counts = crew.counts
            show(report.kept + report.counts.lines, report.counts)
        return report

    def join(self, parts: PartsFolder, report: BatchReport, force: bool) -> None:
        """Write the output from the parts, and delete them.

        Raises ConfigError if the output has come to be there meanwhile, or cannot be written.
        """
        partial = parts.folder / ".joined.partial"
        try:
            self.source.write(partial, self._answers(parts, report))
            with open(partial, "rb+", opener=regular) as file:
                os.fsync(file.fileno())
            if force or self._is_ours(partial):
                os.replace(partial, self.target)
            else:
                rename_new(partial, self.target)
            sync_folder(self.target.parent)
        except FileExistsError as error:
            raise self._exists() from error
        except OSError as error:
            raise ConfigError(
                f"batch: cannot write {quoted(self.target)}: "
                f"{error.strerror or error}. Make room, and start the batch again: it goes on."
            ) from error
        parts.remove()

    def _is_ours(self, partial: Path) -> bool:
        """Whether the output is there and the same: only the parts were not deleted."""
        if not self.target.is_file() or self.target.stat().st_size != partial.stat().st_size:
            return False
        old, new = (open(x, "rb", opener=regular) for x in (self.target, partial))
        with old, new:
            return all(a == b for a, b in zip(_pieces(old), _pieces(new), strict=True))

    def _answers(self, parts: PartsFolder, report: BatchReport) -> Iterator[bytes]:
        """Yield all answers in order; count those that are errors."""
        place = 0
        for number in range(-(-self.lines // self._part_lines)):
            for answer in parts.read(number, min(self._part_lines, self.lines - place)):
                place += 1
                error = _DECODER.decode(answer).error
                if error is not None:
                    report.failed += 1
                    told = error["message"] if isinstance(error, dict) else error
                    report.first_failure = report.first_failure or f"line {place}: {told}"
                yield answer


class _Verdict(msgspec.Struct):
    error: Any = None


_DECODER = msgspec.json.Decoder(_Verdict)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(1 << 20), b"")
