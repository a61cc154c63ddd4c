"""Reads the header of a safetensors file, and trusts nothing in it.

    offset  bytes  content
         0      8  N, the length of the header, uint64, little-endian
         8      N  JSON object: tensor name to {"dtype", "shape", "data_offsets": [begin, end]};
                   "__metadata__" may hold strings for people
     8 + N      .  the data: offsets count from here, row-major, little-endian

Tensors cover the data from the first byte to the last, in any order, without holes or overlaps;
the file ends with the last of them. Source: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from cpumix.errors import ConvertError, quoted

from ..head import Head
from ..random_access import RandomAccess
from ..stored import NUMPY_DTYPES, StoredTensor

MAX_HEADER_BYTES = 100_000_000  # what the format's own library allows
MAX_DIMENSIONS = 8


def parse_head(file: RandomAccess) -> Head:
    """Return the tensors of a safetensors file.

    Raises ConvertError when it is not one, is damaged, or is not as long as its header says.
    """
    path, start = file.path, file.read(0, 8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > MAX_HEADER_BYTES:
        raise ConvertError(
            f'"{path}": not a safetensors file: expected the length of a header in the '
            f"first 8 bytes, found {start!r}. Download it again."
        )
    _check_size(path, 8 + length, file.size, "at least ")
    text = file.read(8, length)
    entries = _parse(path, text)
    data = 8 + length
    tensors = {name: _tensor(path, name, entry, data) for name, entry in entries.items()}
    end, before = data, "the header"
    for name, t in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if t.offset != end:
            raise _damaged(
                path,
                f"tensor {quoted(name)}: expected it at byte {end}, where {before} ends, "
                f"found it at byte {t.offset}",
            )
        end, before = end + t.nbytes, f'tensor "{name}"'
    _check_size(path, end, file.size)
    return Head(tensors)


def _check_size(path: Path, expected: int, size: int, least: str = "") -> None:
    if size < expected:
        raise ConvertError(
            f'"{path}": the shard is truncated: expected {least}{expected} bytes, found {size}. '
            "Download it again."
        )
    if size > expected and not least:
        raise _damaged(path, f"expected the file to end at byte {expected}, found {size} bytes")


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            uses = Counter(name for name, _ in pairs)
            twice = next(name for name, n in uses.items() if n > 1)
            raise _damaged(path, f'expected "{twice}" once in the header, found it twice')
        return found

    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as e:
        raise _damaged(path, f"expected a header of JSON, found other bytes ({e})") from e
    if not isinstance(entries, dict):
        raise _damaged(path, f"expected a JSON object as header, found a {type(entries).__name__}")
    entries.pop("__metadata__", None)
    return entries


def _tensor(path: Path, name: str, entry: Any, data: int) -> StoredTensor:
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not (isinstance(dtype, str) and _are_counts(shape) and _are_counts(offsets)):
        raise _damaged(
            path, f"tensor {quoted(name)}: expected a dtype, a shape and two offsets, found others"
        )
    if len(shape) > MAX_DIMENSIONS or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(
            path,
            f"tensor {quoted(name)}: expected an offset where it begins and a later one where it "
            f"ends, and at most {MAX_DIMENSIONS} dimensions, found {offsets[:3]} and {len(shape)}",
        )
    begin, end = offsets
    nbytes = prod(shape) * NUMPY_DTYPES[dtype].itemsize if dtype in NUMPY_DTYPES else end - begin
    if nbytes != end - begin:
        raise _damaged(
            path,
            f"tensor {quoted(name)}: expected {nbytes} bytes for shape {tuple(shape)} of {dtype}, "
            f"found offsets for {end - begin}",
        )
    return StoredTensor(path, dtype, tuple(shape), data + begin, nbytes)


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    # By type(), because True is an int too; below 2^48, so that no product takes long.
    if not isinstance(values, list):
        return False
    for n in values:  # a generator takes twice as long, and some models have 20,000 tensors
        if type(n) is not int or not 0 <= n < 1 << 48:
            return False
    return True


def _damaged(path: Path, what: str) -> ConvertError:
    return ConvertError(f'"{path}": {what}. The shard is damaged: download it again.')
