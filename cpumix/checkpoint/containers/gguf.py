"""Reads the headers of GGUF files of other programs, split ones too, and trusts nothing in them.

The bytes of a header are `store.gguf`'s business; here each tensor's type and extent are checked
against the file. Each part of a split model has a header with offsets of its own. Only the first
has the metadata of the model, and it may have no tensor.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

from cpumix.errors import ConvertError, quoted
from cpumix.store import gguf

from ..encodings.ggml import GGML_TYPES, UNREAD_TYPES
from ..head import NO_HEADS, Head, Heads, read_head
from ..random_access import FileStream, RandomAccess
from ..stored import StoredTensor
from .gguf_files import find_parts

_LATE = ("tokenizer.ggml.merges",)  # the most strings by far, and few commands look at them


def read_gguf(path: Path, heads: Heads = NO_HEADS) -> Head:
    """Return what the headers of a file, and of the other parts of its model, say.

    Files that are not here are among `heads`. Raises FormatError for a damaged header, ConvertError
    for tensors that are not in the file or of a type that cpumix does not read, and missing parts.
    """
    head = read_head(path, parse_head, heads)
    count = head.metadata.get("split.count", 1)
    if type(count) is not int or count <= 1:
        return head
    metadata, promised = head.metadata, None
    all_tensors: dict[str, StoredTensor] = {}
    for number, part in enumerate(find_parts(path, count, heads)):
        tensors, found = read_head(part, parse_head, heads)
        if found.get("split.no") != number or found.get("split.count") != count:
            raise ConvertError(
                f'"{part}": expected part {number} of {count} by its metadata (split.no, '
                f"split.count), found another. Download all parts of one model."
            )
        if twice := tensors.keys() & all_tensors.keys():
            raise ConvertError(
                f"tensor {quoted(min(twice))}: expected it in one part of a split model, found it "
                f'in two, one of them "{part}". Download all parts of one model.'
            )
        all_tensors |= tensors
        if number == 0:
            metadata, promised = found, found.get("split.tensors.count")
    if type(promised) is int and promised != len(all_tensors):
        raise ConvertError(
            f'"{path}": expected {promised} tensors in {count} parts, found {len(all_tensors)}. '
            "Download all parts of one model."
        )
    return Head(all_tensors, metadata)


def parse_head(file: RandomAccess) -> Head:
    """Return the tensors of a file, which may be one part of a model, and its metadata.

    Raises FormatError for a damaged header, ConvertError for tensors that are not in the file or
    of a type that cpumix does not read.
    """
    path, size = file.path, file.size
    header = gguf.parse_header(FileStream(file), size, str(path), _LATE)
    tensors = {t.name: _place(path, t, header.data_start) for t in header.tensors}
    end, before = header.data_start, "the header"
    for name, t in sorted(tensors.items(), key=lambda item: item[1].offset):
        if t.offset < end:
            raise ConvertError(
                f'"{path}": tensor {quoted(name)}: expected it after byte {end}, where {before} '
                f"ends, found it at byte {t.offset}. The file is damaged: download it again."
            )
        end, before = t.offset + t.nbytes, f"tensor {quoted(name)}"
    if end > size:
        raise ConvertError(
            f'"{path}": the file is cut off: expected at least {end} bytes for its tensors, found '
            f"{size}. Download it again, or join its parts."
        )
    return Head(tensors, header.metadata)


def _place(path: Path, tensor: gguf.TensorInfo, data_start: int) -> StoredTensor:
    kind = GGML_TYPES.get(tensor.type)
    if kind is None:
        found = UNREAD_TYPES.get(tensor.type, f"number {tensor.type}")
        raise ConvertError(
            f'"{path}": tensor {quoted(tensor.name)}: expected one of the types '
            f"{', '.join(t.name for t in GGML_TYPES.values())}, found {found}. "
            "Get a file of another quantization."
        )
    columns = tensor.shape[-1]
    if columns % kind.values:
        raise ConvertError(
            f'"{path}": tensor {quoted(tensor.name)}: expected rows of a multiple of '
            f"{kind.values} numbers in type {kind.name}, found {columns}. Download the file again."
        )
    nbytes = prod(tensor.shape) // kind.values * kind.nbytes
    return StoredTensor(path, kind.name, tensor.shape, data_start + tensor.offset, nbytes)
