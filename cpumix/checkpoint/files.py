"""Plain reading of a checkpoint's files, never through a map: mapped pages would count as memory.

What the system refuses, and git-lfs pointers left where a file should be, become ConvertErrors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cpumix.errors import ConvertError
from cpumix.input_file import read_input, regular

_POINTER = b"version https://git-lfs.github.com/spec/"


def read_into(path: Path, offset: int, out: memoryview) -> None:
    """Fill `out`, flat bytes, from a file at `offset`; any number of threads may read at once."""
    done = 0
    try:
        with open(path, "rb", buffering=0, opener=regular) as file:
            file.seek(offset)
            while done < len(out):
                n = file.readinto(out[done:])
                if not n:
                    break
                done += n
    except OSError as e:
        raise unreadable(path, e) from e
    if done < len(out):
        raise ConvertError(
            f'"{path}": expected {len(out)} bytes at byte {offset}, found {done}: the file became '
            "shorter while it was read. Download it again."
        )


def read_file(path: Path) -> bytes:
    """Return all of a small file."""
    try:
        data = read_input(path)
    except OSError as e:
        raise unreadable(path, e) from e
    refuse_pointer(path, data)
    return data


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds."""
    try:
        found = json.loads(read_file(path))
    except (ValueError, RecursionError) as e:
        raise ConvertError(
            f'"{path}": expected JSON, found other text ({e}). Download it again.'
        ) from e
    if not isinstance(found, dict):
        raise ConvertError(
            f'"{path}": expected a JSON object, found a {type(found).__name__}. Download it again.'
        )
    return found


def refuse_pointer(path: Path, head: bytes) -> None:
    """Raise ConvertError if a file that begins with `head` is a git-lfs pointer."""
    if head.startswith(_POINTER):
        raise ConvertError(
            f'"{path}": expected the file itself, found a git-lfs pointer to it. '
            "Run `git lfs pull` in the checkpoint's folder."
        )


def unreadable(path: Path, e: OSError) -> ConvertError:
    """Return the error that a file cannot be read."""
    return ConvertError(f'"{path}": cannot read this part of the checkpoint: {e.strerror or e}.')
