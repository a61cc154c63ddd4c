"""Plain reads of a checkpoint's files, in which every fault is one sentence.

Nothing is mapped: mapped pages would count as memory of the process, and a conversion promises to
need little.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cpumix.errors import ConvertError

POINTER_START = b"version https://git-lfs.github.com/spec/"


def read_file(path: Path) -> bytes:
    """Return a small file's bytes. Raises ConvertError if there are none to read."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise cannot_read(path, e) from e
    refuse_pointer(path, data)
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises ConvertError if it holds anything else."""
    return parse_object(read_file(path), str(path))


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object in which no name occurs twice; `where` names it in ConvertErrors."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise ConvertError(
            f'"{where}": expected valid JSON, found other text ({e}). Download the file again.'
        ) from e
    if not isinstance(value, dict):
        raise ConvertError(
            f'"{where}": expected a JSON object, found {type(value).__name__}. '
            "Download the file again."
        )
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'"{twice}" occurs twice')
    return result


def read_range(path: Path, offset: int, out: memoryview) -> None:
    """Fill `out` with the bytes at `offset`.

    Each call opens the file anew, so that threads share no position. Raises ConvertError if the
    file ends too early.
    """
    done = 0
    try:
        with open(path, "rb", buffering=0) as stream:
            stream.seek(offset)
            while done < len(out):
                count = stream.readinto(out[done:])
                if not count:
                    break
                done += count
    except OSError as e:
        raise cannot_read(path, e) from e
    if done < len(out):
        raise ConvertError(
            f'"{path}": the file became shorter while it was read: expected {offset + len(out)} '
            f"bytes or more, found {offset + done}. Leave the checkpoint alone while it is read."
        )


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raise ConvertError if a file's first bytes say that git has not fetched its content."""
    if start.startswith(POINTER_START):
        raise ConvertError(
            f'"{path}": expected the file itself, found a git-lfs pointer to it. '
            "Run `git lfs pull` in the checkpoint's folder, or download the file."
        )


def cannot_read(path: Path, error: OSError) -> ConvertError:
    """Return the sentence for a failed read."""
    return ConvertError(
        f'"{path}": cannot read this part of the checkpoint: {error.strerror or error}.'
    )
