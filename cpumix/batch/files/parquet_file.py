"""Parquet: one column has prompts, and the answers are typed columns at the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cpumix.extras import from_extra
from cpumix.input_file import regular

from ..settings import RESULT_FIELDS
from .line_file import LineFile

_ROWS = 1024  # that are in memory at once


class ParquetFile(LineFile):
    """Needs pyarrow, which the extra `batch` brings."""

    takes_column = True

    def __init__(self, path: Path, column: str | None) -> None:
        """Look at a file. Raises ConfigError without pyarrow, too."""
        with from_extra("batch", "batch", " for parquet"):
            import pyarrow.parquet  # noqa: F401
        super().__init__(path, column)

    def lines(self) -> Iterator[bytes | None]:  # noqa: D102
        names = next(self._read([])).names
        if self.column not in names:
            raise self._no_column(names)
        batches = self._read([self.column])
        next(batches)
        for batch in batches:
            for value in batch.column(0).to_pylist():
                prompt = value if isinstance(value, str | None) else False  # which is refused
                yield json.dumps({"prompt": prompt}).encode()

    def write(self, target: Path, answers: Iterable[bytes]) -> None:  # noqa: D102
        import pyarrow as pa
        import pyarrow.parquet as pq

        batches, left = self._read(None), iter(answers)
        old, new = next(batches), result_schema()
        kept = [name for name in old.names if name not in RESULT_FIELDS]
        schema = pa.schema([*map(old.field, kept), *new], old.metadata)
        with pq.ParquetWriter(target, schema) as writer:
            for batch in batches:
                columns = [batch.column(name) for name in kept]
                columns += result_columns(islice(left, len(batch)))
                writer.write_batch(pa.record_batch(columns, schema=schema))

    def _read(self, columns: list[str] | None) -> Iterator[Any]:
        """Yield the schema, then batches of rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with open(self.path, "rb", opener=regular) as stream, pq.ParquetFile(stream) as file:
                yield file.schema_arrow
                yield from file.iter_batches(_ROWS, columns=columns)
        except OSError as error:
            raise self._unreadable(error) from error
        except pa.ArrowException as error:
            raise self._damaged("a parquet file", error) from error


def result_schema() -> Any:
    """Return the types of `RESULT_FIELDS`, as pyarrow's schema."""
    import pyarrow as pa

    types = dict.fromkeys(RESULT_FIELDS, pa.string())
    types |= {name: pa.int64() for name in RESULT_FIELDS if name.endswith("_tokens")}
    return pa.schema(list(types.items()))


def result_columns(answers: Iterable[bytes]) -> list[Any]:
    """Return the answers to plain prompts as pyarrow's arrays, one for each of these fields."""
    import pyarrow as pa

    found: list[dict[str, Any]] = [json.loads(data) for data in answers]
    return [pa.array([each[f.name] for each in found], f.type) for f in result_schema()]
