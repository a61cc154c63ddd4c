"""The safetensors header of one shard, trusted only after every number in it has been checked.

    offset   content
    0        header size N, uint64, little-endian
    8        N bytes of JSON: name -> {"dtype", "shape", "data_offsets": [begin, end]}
    8 + N    the data; offsets count from here, and tensors follow each other without gaps

"__metadata__" is not a tensor. The whole format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from cpumix.errors import ConvertError

from .files import POINTER_START, cannot_read, parse_object, refuse_pointer

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own library
MAX_DIMENSIONS = 8
ITEM_BYTES = {
    **dict.fromkeys(("BF16", "F16", "I16", "U16"), 2),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}


class StoredTensor(NamedTuple):
    """Where a shard keeps a tensor; `offset` counts from the start of the file, in bytes."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return a shard's tensors by name, in the order of their data.

    Raises ConvertError unless the header is sound and the file has exactly the size it promises.
    """
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(len(POINTER_START))
            refuse_pointer(path, start)
            if size < 8:
                raise ConvertError(
                    f'"{path}": too short for a safetensors shard: expected 8 bytes or more, found '
                    f"{size}. Download it again."
                )
            length = int.from_bytes(start[:8], "little")
            if length > MAX_HEADER_BYTES:
                raise ConvertError(
                    f'"{path}": not a safetensors shard: expected a header of at most '
                    f"{MAX_HEADER_BYTES} bytes, found a size of {length}. Download it again."
                )
            if 8 + length > size:
                raise _truncated(path, 8 + length, size)
            stream.seek(8)
            text = stream.read(length)
    except OSError as e:
        raise cannot_read(path, e) from e
    header = parse_object(text, str(path))
    header.pop("__metadata__", None)
    tensors = [(name, _stored(path, name, entry, 8 + length)) for name, entry in header.items()]
    tensors.sort(key=lambda item: (item[1].offset, item[1].nbytes))
    end = 8 + length
    for name, tensor in tensors:
        if tensor.offset != end:
            raise ConvertError(
                f'tensor "{name}" overlaps another one or leaves a gap: expected it at byte {end}, '
                f'found {tensor.offset}. Download "{path}" again.'
            )
        end += tensor.nbytes
    if size < end:
        raise _truncated(path, end, size)
    if size > end:
        raise ConvertError(
            f'"{path}": bytes after the last tensor: expected {end} bytes, found {size}. '
            "Download it again."
        )
    return dict(tensors)


def _stored(path: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    """Check one entry of a header by itself."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        numbers = [None]
    if not all(type(number) is int for number in numbers) or not isinstance(dtype, str):
        raise ConvertError(
            f'tensor "{name}": expected a header entry of dtype, shape and two data_offsets, found '
            f'{str(entry)[:100]}. Download "{path}" again.'
        )
    if (
        len(shape) > MAX_DIMENSIONS
        or not 0 <= begin <= end
        or not all(0 <= n < 1 << 63 for n in numbers)
    ):
        raise ConvertError(
            f'tensor "{name}": expected sizes and offsets that a file can have, found shape '
            f'{str(shape)[:100]} at [{begin}, {end}]. Download "{path}" again.'
        )
    item = ITEM_BYTES.get(dtype)  # others are refused if they are needed
    if item is not None and prod(shape) * item != end - begin:
        raise ConvertError(
            f'tensor "{name}": its data_offsets span {end - begin} bytes, expected '
            f'{prod(shape) * item} for {dtype} of shape {tuple(shape)}. Download "{path}" again.'
        )
    return StoredTensor(path, dtype, tuple(shape), data_start + begin, end - begin)


def _truncated(path: Path, expected: int, found: int) -> ConvertError:
    return ConvertError(
        f'"{path}": truncated shard: expected {expected} bytes, found {found}. Download it again.'
    )
