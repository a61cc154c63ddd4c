"""Tables with commas: one column has prompts, and the answers are columns at the end."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cpumix.api.body import MAX_BODY
from cpumix.input_file import regular

from ..settings import RESULT_FIELDS
from .line_file import LineFile


class CsvFile(LineFile):
    """The first row names the columns; a row that is too short has nothing in its last ones."""

    takes_column = True

    def lines(self) -> Iterator[bytes | None]:  # noqa: D102
        rows = self._rows()
        names = next(rows, [])
        if self.column not in names:
            raise self._no_column(names)
        place = names.index(self.column)
        for row in rows:
            prompt = row[place] if place < len(row) else None
            yield json.dumps({"prompt": prompt}).encode()

    def write(self, target: Path, answers: Iterable[bytes]) -> None:  # noqa: D102
        rows = self._rows()
        names = next(rows)
        kept = [i for i, name in enumerate(names) if name not in RESULT_FIELDS]
        with open(target, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*(names[i] for i in kept), *RESULT_FIELDS])
            for row, data in zip(rows, answers, strict=True):
                row += [""] * (len(names) - len(row))
                answer: dict[str, Any] = json.loads(data)
                writer.writerow([*(row[i] for i in kept), *map(answer.get, RESULT_FIELDS)])

    def _rows(self) -> Iterator[list[str]]:
        """Yield all rows that are not empty, the names first."""
        csv.field_size_limit(MAX_BODY)
        try:
            with open(self.path, encoding="utf-8-sig", newline="", opener=regular) as file:
                yield from filter(None, csv.reader(file, strict=True))
        except OSError as error:
            raise self._unreadable(error) from error
        except (csv.Error, UnicodeDecodeError) as error:
            raise self._damaged("a table in CSV", error) from error
