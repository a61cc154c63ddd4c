"""GGUF v3, the container of the model file: a header of named values and tensor places, and back.

Owns the bytes of the header and nothing else: which keys and tensors a model file has is `layout`'s
business, and tensor data is the writer's and reader's. Version 2, which other programs' older files
have, looks the same. All numbers are little-endian, nothing is aligned:

    offset  bytes  field
         0      4  magic "GGUF"
         4      4  uint32 version, 3
         8      8  uint64 number of tensors
        16      8  uint64 number of metadata entries
        24      .  metadata entries:  key (string), uint32 value type, value
         .      .  tensor entries:    name (string), uint32 number of dimensions (1 to 4),
                                      uint64 dimensions, the fastest-running one first,
                                      uint32 tensor type (0 = float32, 24 = int8),
                                      uint64 offset of its data from the data start
         .      .  zeros up to the data start, a multiple of `general.alignment` (32 if not given)

A string is a uint64 byte count and that many UTF-8 bytes. Value types: 0-7 and 10-12 are the
numbers in `_NUMBERS` (7 = bool, one byte), 8 is a string, 9 an array: uint32 element type, uint64
count, elements.

Parsing trusts nothing: each count and length is held against the bytes that are left before
anything is allocated for it, and a header may take at most `HEADER_LIMIT`.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import numpy as np

from cpumix.errors import FormatError, quoted

from .strings import LENGTH, Strings, read_strings

MAGIC = b"GGUF"
VERSION = 3
READ_VERSIONS = (2, 3)
F32_TENSOR, INT8 = 0, 24  # the tensor types that cpumix writes
ITEM_BYTES = {F32_TENSOR: 4, INT8: 1}
DEFAULT_ALIGNMENT = 32
HEADER_LIMIT = 256 << 20  # bytes; the largest part is the tokenizer, 17 MB for 256k tokens
ITEM_LIMIT = 2_000_000  # strings, metadata and tensors: each costs a microsecond, however short

_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64, _INT64 = 4, 6, 7, 8, 9, 10, 11
_NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("<u1"), 1: np.dtype("<i1"), 2: np.dtype("<u2"), 3: np.dtype("<i2"),
    _UINT32: np.dtype("<u4"), 5: np.dtype("<i4"), _UINT64: np.dtype("<u8"),
    _INT64: np.dtype("<i8"), _FLOAT32: np.dtype("<f4"), 12: np.dtype("<f8"), _BOOL: np.dtype("?"),
}  # fmt: skip
_NUMBER_CODES = {dtype: code for code, dtype in _NUMBERS.items()}


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: row-major shape, tensor type, bytes from the data start."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of data; KeyError for a tensor type that cpumix does not write."""
        return prod(self.shape) * ITEM_BYTES[self.type]


@dataclass(frozen=True)
class Header:
    """A parsed header; `end` is its size in bytes before the padding."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]
    end: int
    alignment: int

    @property
    def data_start(self) -> int:
        """Offset in the file of the first tensor's data."""
        return align(self.end, self.alignment)


def align(offset: int, alignment: int) -> int:
    """Round up to a multiple of `alignment`."""
    return -(-offset // alignment) * alignment


def encode_header(metadata: Mapping[str, Any], tensors: Sequence[TensorInfo]) -> bytes:
    """Return the header without its padding; the same arguments give the same bytes.

    Values: bool, int (uint32, or 64 bits if it must), float (stored as float32), str, list of str,
    bytes (an array of uint8) and one-dimensional NumPy arrays of numbers. TypeError for anything
    else.
    """
    parts = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        code, body = _encode_value(value)
        parts += [_encode_string(key), struct.pack("<I", code), body]
    for t in tensors:
        n = len(t.shape)
        place = struct.pack(f"<I{n}QIQ", n, *reversed(t.shape), t.type, t.offset)
        parts += [_encode_string(t.name), place]
    return b"".join(parts)


def _encode_string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _encode_value(value: Any) -> tuple[int, bytes]:
    """Return the value type and the bytes after it."""
    match value:
        case bool():
            return _BOOL, struct.pack("<?", value)
        case int() if 0 <= value < 2**32:
            return _UINT32, struct.pack("<I", value)
        case int() if value > 0:
            return _UINT64, struct.pack("<Q", value)
        case int():
            return _INT64, struct.pack("<q", value)
        case float():
            return _FLOAT32, struct.pack("<f", value)
        case str():
            return _STRING, _encode_string(value)
        case bytes():
            return _ARRAY, struct.pack("<IQ", _NUMBER_CODES[np.dtype("<u1")], len(value)) + value
        case np.ndarray(ndim=1) if value.dtype.newbyteorder("<") in _NUMBER_CODES:
            dtype = value.dtype.newbyteorder("<")
            data = value.astype(dtype).tobytes()
            return _ARRAY, struct.pack("<IQ", _NUMBER_CODES[dtype], len(value)) + data
        case list() if all(isinstance(v, str) for v in value):
            return _ARRAY, struct.pack("<IQ", _STRING, len(value)) + b"".join(
                map(_encode_string, value)
            )
    raise TypeError(f"GGUF metadata has no type for {type(value).__name__}")


def parse_header(stream: BinaryIO, size: int, where: str, late: Collection[str] = ()) -> Header:
    """Read the header of a GGUF file of `size` bytes; `where` names the file in errors.

    Number arrays become read-only NumPy arrays, string arrays lists of str. Those under the keys in
    `late` become `Strings`, which raise FormatError when they are read and are not UTF-8. Reads
    `end` bytes and no more, buffering aside. Raises FormatError for whatever is not a well-formed
    header of GGUF version 2 or 3; tensor types and the extents of tensors are left to the caller,
    as files of other programs have types unknown here.
    """
    at = _Cursor(stream, size, where)
    magic = at.take(4, "the magic number")
    if magic != MAGIC:
        raise FormatError(
            f'"{where}": not a model file: expected "GGUF" in the first 4 bytes, found {magic!r}. '
            "Convert a Hugging Face checkpoint with `cpumix convert`."
        )
    version = at.number("<I", "the GGUF version")
    if version not in READ_VERSIONS:
        is_big = version in {v << 24 for v in READ_VERSIONS}
        raise FormatError(
            f'"{where}": expected GGUF version 2 or 3, little-endian, found '
            f"{'a big-endian file' if is_big else f'version {version}'}. "
            "Get another file of the model, or convert its Hugging Face checkpoint."
        )
    n_tensors = at.items_of(least=33, what="tensors")
    n_metadata = at.items_of(least=14, what="metadata entries")

    metadata: dict[str, Any] = {}
    for _ in range(n_metadata):
        key = at.string("a metadata key")
        if not key or key in metadata:
            raise at.damaged(
                f"metadata key {quoted(key)}: expected a new name, found it "
                + ("twice" if key else "empty")
            )
        value = at.value(at.number("<I", f"type of {quoted(key)}"), quoted(key))
        is_late = key in late or not isinstance(value, Strings)
        metadata[key] = value if is_late else list(value)

    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
        raise at.damaged(f"general.alignment: expected a power of two from 8, found {alignment!r}")
    tensors: dict[str, TensorInfo] = {}
    for _ in range(n_tensors):
        tensor = at.tensor_info()
        if tensor.name in tensors:
            raise at.damaged(f"tensor {quoted(tensor.name)}: expected a new name, found it twice")
        if tensor.offset % alignment:
            raise at.damaged(
                f"tensor {quoted(tensor.name)}: expected an offset that is a multiple of "
                f"{alignment} bytes, found {tensor.offset}"
            )
        tensors[tensor.name] = tensor
    return Header(metadata, tuple(tensors.values()), at.position, alignment)


class _Cursor:
    """Takes bounded bites from a stream; every complaint names the file and the byte."""

    def __init__(self, stream: BinaryIO, size: int, where: str) -> None:
        self.stream = stream
        self.size = size
        self.where = where
        self.position = 0
        self.items = ITEM_LIMIT  # that may still come

    def damaged(self, what: str) -> FormatError:
        return FormatError(
            f'"{self.where}": {what}. The file is damaged: copy or download it again.'
        )

    @property
    def left(self) -> int:
        return min(self.size, HEADER_LIMIT) - self.position

    def take(self, nbytes: int, what: str) -> bytes:
        data = self.stream.read(nbytes) if nbytes <= self.left else b""
        if len(data) != nbytes:
            most = f"the {HEADER_LIMIT >> 20} MiB allowed for a header"
            limit = "the file" if self.size <= HEADER_LIMIT else most
            raise self.damaged(
                f"{what} at byte {self.position}: expected {nbytes} bytes, "
                f"found {max(self.left, 0)} before the end of {limit}"
            )
        self.position += nbytes
        return data

    def number(self, layout: str, what: str) -> int:
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout), what))
        return int(value)

    def count(self, least: int, what: str) -> int:
        """Read a uint64 count of things that take at least `least` bytes each."""
        n = self.number("<Q", f"the number of {what}")
        if n * least > self.left:
            raise self.damaged(
                f"expected at most {self.left // least} {what} in the bytes left, "
                f"found a count of {n}"
            )
        return n

    def items_of(self, least: int, what: str) -> int:
        """Read a count of things that are looked at one by one."""
        n = self.count(least, what)
        self.items -= n
        if self.items < 0:
            raise self.damaged(f"{what}: expected at most {ITEM_LIMIT} in a header, found {n} more")
        return n

    def string(self, what: str) -> str:
        data = self.take(self.number("<Q", f"the length of {what}"), what)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as e:
            raise self.damaged(
                f"{what} before byte {self.position}: expected UTF-8 text, found {data[:16]!r}"
            ) from e

    def strings(self, n: int, what: str) -> Strings:
        """Read `n` strings, many at once."""
        parts = read_strings(self.stream, n, self.position, min(self.size, HEADER_LIMIT))
        found = Strings(
            parts,
            lambda number, data: self.damaged(
                f"{what}, string {number}: expected UTF-8 in an array, found {data!r:.40}"
            ),
        )
        self.position += found.nbytes
        self.stream.seek(self.position)
        if len(found) < n:
            head = self.stream.read(min(self.left, LENGTH.size))
            length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else 0
            raise self.damaged(
                f"{what} at byte {self.position}: expected a string of {length} bytes, "
                f"found {max(self.left - LENGTH.size, 0)} before the end of the header"
            )
        return found

    def value(self, code: int, what: str) -> Any:
        if code == _STRING:
            return self.string(what)
        if code == _ARRAY:
            return self.array(what)
        return self.numbers(code, 1, what)[0].item()

    def array(self, what: str) -> Any:
        code = self.number("<I", f"the element type of {what}")
        if code == _STRING:
            return self.strings(self.items_of(least=8, what=f"strings in {what}"), what)
        return self.numbers(code, self.count(least=1, what=f"elements in {what}"), what)

    def numbers(self, code: int, n: int, what: str) -> Any:
        if code not in _NUMBERS:
            raise self.damaged(
                f"{what}: expected a value type from 0 to 12 and no array in an array, found {code}"
            )
        return np.frombuffer(self.take(n * _NUMBERS[code].itemsize, what), _NUMBERS[code])

    def tensor_info(self) -> TensorInfo:
        name = self.string("a tensor name")
        n = self.number("<I", f"the number of dimensions of {quoted(name)}")
        if not 1 <= n <= 4:
            raise self.damaged(f"tensor {quoted(name)}: expected 1 to 4 dimensions, found {n}")
        *dims, kind, offset = struct.unpack(
            f"<{n}QIQ", self.take(8 * n + 12, f"the place of {quoted(name)}")
        )
        if 0 in dims:
            raise self.damaged(f"tensor {quoted(name)}: expected dimensions above 0, found {dims}")
        return TensorInfo(name, tuple(reversed(dims)), kind, offset)
