"""Writes what torch.save writes, without PyTorch: pickles by hand, zip and legacy files."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

STORAGES = {"uint16": "BFloat16Storage", "float16": "HalfStorage", "float32": "FloatStorage"}
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
LITTLE_ENDIAN = b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."


class View(NamedTuple):
    """A tensor that is part of a storage that others may share."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key: str, kind: str, count: int, view: View, *, parameter: bool = False) -> bytes:
    """Return the instructions that build a tensor."""
    storage = text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    reference = b"(" + storage + number(count) + b"tQ"
    shape = numbers(view.shape) + numbers(view.strides)
    hooks = b"ccollections\nOrderedDict\n)R"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + number(view.offset)
    made += shape + b"\x89" + hooks + b"tR"
    if parameter:
        made = b"ctorch._utils\n_rebuild_parameter\n(" + made + b"\x89" + hooks + b"tR"
    return made


def state_dict(
    storages: Mapping[str, NDArray[Any]], tensors: Mapping[str, View], parameters: bool = False
) -> bytes:
    """Return the pickle of a state dict."""
    body = b"".join(
        text(name)
        + tensor(
            v.storage,
            STORAGES[storages[v.storage].dtype.name],
            storages[v.storage].size,
            v,
            parameter=parameters,
        )
        for name, v in tensors.items()
    )
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + body + b"u}X\x09\x00\x00\x00_metadata}sb."


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))


def whole(tensors: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], dict[str, View]]:
    """Return a storage and a view of all of it for each array; transposed ones keep their order."""
    storages, views = {}, {}
    for i, (name, array) in enumerate(tensors.items()):
        kept = array.T if array.flags.f_contiguous and array.ndim > 1 else array
        storages[str(i)] = np.ascontiguousarray(kept)
        strides = contiguous(kept.shape)
        views[name] = View(str(i), 0, array.shape, strides[::-1] if kept is not array else strides)
    return storages, views


def write_zip(
    path: Path, tensors: Mapping[str, NDArray[Any]], parameters: bool = False, byteorder: str = ""
) -> None:
    """Write arrays as torch.save does."""
    storages, views = whole(tensors)
    entries = {"data.pkl": state_dict(storages, views, parameters), "version": b"3\n"}
    if byteorder:
        entries["byteorder"] = byteorder.encode()
    entries |= {f"data/{key}": storage.tobytes() for key, storage in storages.items()}
    write_entries(path, {f"{path.stem}/{name}": data for name, data in entries.items()})


def write_entries(path: Path, entries: Mapping[str, bytes], method: int = 0) -> None:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in entries.items():
            file.writestr(name, data)


def write_legacy(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as torch.save did before version 1.6."""
    storages, views = whole(tensors)
    keys = b"\x80\x02](" + b"".join(map(text, storages)) + b"e."
    data = b"".join(struct.pack("<q", s.size) + s.tobytes() for s in storages.values())
    path.write_bytes(LEGACY_START + LITTLE_ENDIAN + state_dict(storages, views) + keys + data)
