"""Reads what torch.save wrote, without PyTorch: pytorch_model.bin, consolidated.00.pth.

    zip (PyTorch 1.6 and later)           before that
    STEM/data.pkl    the tensors          pickle: 0x1950a86a20f9469cfc6c
    STEM/data/KEY    a storage's bytes    pickle: 1001
    STEM/byteorder   "little", if there   pickle: about the machine, {"little_endian": True, ...}
    others           of no matter         pickle: the tensors
                                          pickle: list of keys, then for each
                                          int64 count of numbers, the storage's bytes

In the pickle a tensor is a call _rebuild_tensor_v2(storage, offset, size, stride, ...), a storage
the persistent id ("storage", torch.HalfStorage, KEY, location, count of numbers). Offsets and
strides count numbers; several tensors may lie in one storage.
Source: https://github.com/pytorch/pytorch, torch/serialization.py and torch/_utils.py.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from cpumix.errors import ConvertError, quoted

from ..head import Head
from ..random_access import RandomAccess
from ..stored import NUMPY_DTYPES, StoredTensor
from . import pickles, zip_entries
from .pickles import Call, Name, NotPlain, PersistentId

_MAGIC = 0x1950A86A20F9469CFC6C
_MOST_PICKLE = 32 << 20  # bytes; 3,000 tensors take 0.6 MB
MAX_DIMENSIONS = 8
_STORAGES = {
    "BFloat16Storage": "BF16", "HalfStorage": "F16", "FloatStorage": "F32", "DoubleStorage": "F64",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8",
    "ByteStorage": "U8", "BoolStorage": "BOOL", "UntypedStorage": "U8",
}  # fmt: skip
_DTYPES = {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64",
    "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "uint16": "U16",
    "uint32": "U32", "uint64": "U64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
}  # fmt: skip
_WRAPPERS = ("state_dict", "model", "module")  # of a training checkpoint: the weights are in there


class _Storage(NamedTuple):
    """Where a storage's bytes lie."""

    offset: int
    nbytes: int


class _Tensor(NamedTuple):
    """What a pickle says of a tensor, not yet believed."""

    key: str
    dtype: str
    numbers: int
    """Of the storage."""
    offset: int
    size: tuple[int, ...]
    strides: tuple[int, ...]


def parse_head(file: RandomAccess) -> Head:
    """Return the tensors of a file of torch.save.

    Raises ConvertError when it is not one, is damaged, or holds anything but tensors.
    """
    path, is_zip = file.path, file.read(0, 4) == zip_entries.MAGIC
    try:
        tensors, storages = (_read_zip if is_zip else _read_legacy)(file)
        return Head({n: _place(path, n, t, storages) for n, t in tensors.items()})
    except NotPlain as e:
        raise ConvertError(
            f'"{path}": expected nothing but tensors, found {e}. Nothing in it was run: do not '
            "open it with other programs unless you trust where it comes from."
        ) from e


def _read_zip(file: RandomAccess) -> tuple[dict[str, _Tensor], Mapping[str, _Storage]]:
    path, entries = file.path, zip_entries.read_entries(file)
    stem = next((n.removesuffix("data.pkl") for n in entries if n.endswith("/data.pkl")), None)
    if stem is None:
        raise _damaged(path, "expected an entry data.pkl, found none")
    order = entries.get(stem + "byteorder")
    if order and zip_entries.read_entry(file, order, 16, "byteorder").strip() != b"little":
        raise _big_endian(path)
    entry = entries[stem + "data.pkl"]
    pickled = zip_entries.read_entry(file, entry, _MOST_PICKLE, "data.pkl")
    prefix = stem + "data/"
    storages = {n[len(prefix) :]: _Storage(*e) for n, e in entries.items() if n.startswith(prefix)}
    return _tensors(pickles.load(io.BytesIO(pickled))), storages


def _read_legacy(file: RandomAccess) -> tuple[dict[str, _Tensor], Mapping[str, _Storage]]:
    path, stream = file.path, io.BytesIO(file.read(0, _MOST_PICKLE))
    try:
        magic = pickles.load(stream)
    except NotPlain:
        magic = None
    if magic != _MAGIC:
        raise _damaged(path, "expected a file of torch.save, found another one")
    _version, machine = pickles.load(stream), pickles.load(stream)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise _big_endian(path)
    tensors, keys = _tensors(pickles.load(stream)), pickles.load(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise NotPlain("no list of storages")
    dtypes = {tensor.key: tensor.dtype for tensor in tensors.values()}
    storages, at = {}, stream.tell()
    for key in keys:
        itemsize = NUMPY_DTYPES[dtypes[key]].itemsize if key in dtypes else 1
        nbytes = int.from_bytes(file.read(at, 8), "little") * itemsize
        if key not in dtypes or key in storages or at + 8 + nbytes > file.size:
            raise _damaged(path, f"expected the storage {quoted(key)} inside the file, once")
        storages[key] = _Storage(at + 8, nbytes)
        at += 8 + nbytes
    return tensors, storages


def _tensors(pickled: Any) -> dict[str, _Tensor]:
    """Return the tensors of a state dict by name; other values in it are passed over."""
    if not isinstance(pickled, dict):
        raise NotPlain(f"a {type(pickled).__name__} in place of a dict of tensors")
    found = {n: _tensor(v) for n, v in pickled.items() if isinstance(v, Call)}
    if not found:
        inners = [pickled[n] for n in _WRAPPERS if isinstance(pickled.get(n), dict)]
        found = {
            n: _tensor(v) for inner in inners[:1] for n, v in inner.items() if isinstance(v, Call)
        }
    if not found or not all(isinstance(name, str) for name in found):
        raise NotPlain("no dict of tensors by name")
    return found


def _tensor(call: Any) -> _Tensor:
    while isinstance(call, Call) and call.function == "_rebuild_parameter" and call.arguments:
        call = call.arguments[0]
    if not isinstance(call, Call) or not call.function.startswith("_rebuild_tensor"):
        raise NotPlain("something that is no tensor")
    match call.arguments:
        case (PersistentId(("storage", Name(_, kind), str(key), _, int(count), *rest)), *others):
            pass
        case _:
            raise NotPlain("a tensor without a storage")
    if kind not in _STORAGES or any(part is not None for part in rest):
        raise NotPlain(f"a storage of kind {quoted(kind)}")
    dtype, size = _STORAGES[kind], None
    match others:
        case (int(offset), size, strides, _, _, Name("torch", name), *_):
            dtype = _DTYPES.get(name, name)
            count //= NUMPY_DTYPES[dtype].itemsize if dtype in NUMPY_DTYPES else 1
        case (int(offset), size, strides, *_):
            pass
        case _:
            raise NotPlain("a tensor without a shape")
    size, strides = (
        a.arguments[0] if isinstance(a, Call) and a.arguments else a for a in (size, strides)
    )
    if dtype not in NUMPY_DTYPES or not (_are_counts(size) and _are_counts(strides)):
        raise NotPlain(f"a tensor of an unknown type {quoted(dtype)} or shape")
    if len(size) != len(strides) or len(size) > MAX_DIMENSIONS or not _are_counts((offset, count)):
        raise NotPlain("a tensor of an impossible shape")
    return _Tensor(key, dtype, count, offset, tuple(size), tuple(strides))


def _place(path: Path, name: str, t: _Tensor, storages: Mapping[str, _Storage]) -> StoredTensor:
    itemsize = NUMPY_DTYPES[t.dtype].itemsize
    storage = storages.get(t.key)
    steps = zip(t.size, t.strides, strict=True)
    span = t.offset + 1 + sum((n - 1) * step for n, step in steps) if all(t.size) else 0
    if storage is None or max(span, t.numbers) * itemsize > storage.nbytes:
        raise _damaged(path, f"tensor {quoted(name)}: expected it inside its storage")
    strides = [prod(t.size[i + 1 :]) for i in range(len(t.size))]
    contiguous = all(n == 1 or a == b for n, a, b in zip(t.size, t.strides, strides, strict=True))
    nbytes = prod(t.size) * itemsize
    return StoredTensor(
        path,
        t.dtype,
        t.size,
        storage.offset + t.offset * itemsize,
        nbytes,
        None if contiguous or not nbytes else t.strides,
    )


def _are_counts(values: Any) -> TypeGuard[tuple[int, ...]]:
    # By type(), because True is an int too; below 2^48, so that no product takes long.
    return isinstance(values, (tuple, list)) and all(
        type(n) is int and 0 <= n < 1 << 48 for n in values
    )


def _big_endian(path: Path) -> ConvertError:
    return ConvertError(
        f'"{path}": expected little-endian numbers, found big-endian ones. Save it anew on a '
        "little-endian machine."
    )


def _damaged(path: Path, what: str) -> ConvertError:
    return ConvertError(f'"{path}": {what}. The file is damaged: download it again.')
