"""Files of lines, by their suffixes. A new format is a file here and a row in `LINE_FILES`."""

from __future__ import annotations

from pathlib import Path

from cpumix.errors import ConfigError, quoted

from .csv_file import CsvFile
from .json_lines import JsonLines
from .line_file import LineFile
from .parquet_file import ParquetFile

LINE_FILES: dict[str, type[LineFile]] = {
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".csv": CsvFile,
    ".parquet": ParquetFile,
}


def open_lines(source: Path, target: Path, column: str | None) -> LineFile:
    """Return the input, whose format the names of input and output tell.

    Raises ConfigError for other files, FormatError for one that is not what its name says.
    """
    kinds = [LINE_FILES.get(path.suffix.lower()) for path in (source, target)]
    for path, kind in zip((source, target), kinds, strict=True):
        if kind is None:
            raise ConfigError(
                f"batch: expected one of the suffixes {', '.join(LINE_FILES)}, found "
                f"{quoted(path.name)}. Rename it."
            )
    if kinds[0] is not kinds[1]:
        raise ConfigError(
            f"batch: expected input and output of one format, found {quoted(source.name)} and "
            f"{quoted(target.name)}. Rename the output."
        )
    assert kinds[0] is not None
    return kinds[0](source, column)
