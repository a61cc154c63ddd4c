"""Reads the .npz files of NumPy and MLX: a zip file with one array in each entry, NAME.npy.

    offset  bytes  content of an entry
         0      6  0x93 "NUMPY"
         6      2  version, 1.0 to 3.0
         8  2 or 4  N, the length of the header, little-endian (4 bytes from version 2.0 on)
         .      N  text: {'descr': '<f2', 'fortran_order': False, 'shape': (8, 16), } and spaces
         .      .  the numbers

MLX writes bfloat16 as the two-byte type V2, as ml_dtypes does under NumPy.
Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import re
from math import prod

from cpumix.errors import ConvertError, quoted

from ..head import Head
from ..random_access import RandomAccess
from ..stored import NUMPY_DTYPES, StoredTensor
from .zip_entries import ZipEntry, read_entries

MAX_DIMENSIONS = 8
_HEADER = re.compile(
    r"\{'descr': '[<|=]?(?P<kind>[a-zA-Z]\d{1,2})', "
    r"'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(?:\d{1,15}, ?)*(?:\d{1,15})?)\),? ?\}\s*"
)
_MOST_HEADER = 4096  # what NumPy's own writer may need is below 10,000, for records that none are
_DTYPES = {
    "f2": "F16", "f4": "F32", "f8": "F64", "V2": "BF16", "b1": "BOOL",
    "u1": "U8", "u2": "U16", "u4": "U32", "u8": "U64",
    "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64",
}  # fmt: skip


def parse_head(file: RandomAccess) -> Head:
    """Return the arrays of an npz file.

    Raises ConvertError when it is not one, is damaged, or holds anything but plain arrays.
    """
    entries = read_entries(file).items()
    return Head({name.removesuffix(".npy"): _array(file, name, entry) for name, entry in entries})


def _array(file: RandomAccess, name: str, entry: ZipEntry) -> StoredTensor:
    path, head = file.path, file.read(entry.offset, min(entry.nbytes, _MOST_HEADER))
    wide = 4 if head[6:7] > b"\x01" else 2
    begin = 8 + wide
    end = begin + int.from_bytes(head[8:begin], "little")
    text = head[begin:end].decode("latin-1")
    found = _HEADER.fullmatch(text)
    if head[:6] != b"\x93NUMPY" or found is None or end > len(head):
        raise ConvertError(
            f'"{path}": array {quoted(name)}: expected a plain array of NumPy, found '
            f"{quoted(text or head[:8])}. Download the file again."
        )
    dtype = _DTYPES.get(found["kind"], found["kind"])
    shape = tuple(int(n) for n in found["shape"].replace(" ", "").split(",") if n)
    nbytes = prod(shape) * (NUMPY_DTYPES[dtype].itemsize if dtype in NUMPY_DTYPES else 1)
    if dtype not in NUMPY_DTYPES or len(shape) > MAX_DIMENSIONS or end + nbytes != entry.nbytes:
        raise ConvertError(
            f'"{path}": array {quoted(name)}: expected {entry.nbytes - end} bytes of numbers, '
            f"found the header of {shape} of type {quoted(dtype)}. Download the file again."
        )
    strides = None
    if found["fortran"] == "True" and len(shape) > 1:
        strides = tuple(prod(shape[:i]) for i in range(len(shape)))
    return StoredTensor(path, dtype, shape, entry.offset + end, nbytes, strides)
