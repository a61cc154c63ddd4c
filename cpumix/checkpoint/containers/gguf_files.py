"""Tells GGUF files by name and beginning, and finds the parts of a split model.

They lie in NAME-00001-of-0000N.gguf and so on.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cpumix.errors import ConvertError, quoted
from cpumix.input_file import regular
from cpumix.store import gguf

from ..head import Heads

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_MOST_PARTS = 10_000


def is_gguf(path: Path) -> bool:
    """Whether a file is called or begins as GGUF files are."""
    if not os.path.isfile(path):
        return False
    if path.suffix == ".gguf":
        return True
    with open(path, "rb", opener=regular) as file:
        return file.read(4) == gguf.MAGIC


def part_number(path: Path) -> int | None:
    """Return which part of a split model a file's name says that it is, from 1; None of a whole."""
    match = _PART.fullmatch(path.name)
    return int(match[2]) if match else None


def models_in(folder: Path) -> list[Path]:
    """Return the models in a folder: files of their own, and the first parts of split ones."""
    found = [path for path in sorted(folder.glob("*.gguf")) if not path.name.startswith("._")]
    return [path for path in found if part_number(path) in (None, 1)]


def find_parts(path: Path, count: int, heads: Heads) -> list[Path]:
    """Return the files of a split model; ConvertError if one is neither here nor among `heads`."""
    match = _PART.fullmatch(path.name)
    if match is None or int(match[3]) != count or count > _MOST_PARTS:
        raise ConvertError(
            f'"{path}": one of {count} parts of a split model: expected a name that ends in '
            f"-00001-of-{count:05}.gguf, found {quoted(path.name)}. Give all parts their names."
        )
    parts = [path.with_name(f"{match[1]}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]
    for part in parts:
        if part not in heads and not part.exists():
            raise ConvertError(
                f'"{part}": a split model has {count} parts, and this one is absent. '
                f'Download it to "{path.parent}".'
            )
    return parts
