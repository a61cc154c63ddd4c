"""Bytes on disk to stored tensors by name: one file each container, one row in `CONTAINERS`.

A container is a function from a file, which may be elsewhere, to its `Head`. It reads no more than
that and trusts nothing in it: it raises unless every tensor that it returns lies inside the file.
Its module is imported for the first such file.
"""

from __future__ import annotations

from pathlib import Path

from cpumix.lazy import later

from ..head import ParseHead, read_head
from ..stored import StoredTensor

__all__ = ["CONTAINERS", "read_tensors"]


def _in(module: str) -> ParseHead:
    """Return the container in a module of this folder."""
    return later(f"{__name__}.{module}", "parse_head")


CONTAINERS: dict[str, ParseHead] = {  # by the file's suffix
    ".safetensors": _in("safetensors"),
    ".bin": _in("torch"),
    ".pt": _in("torch"),
    ".pth": _in("torch"),
    ".npz": _in("npz"),
    ".gguf": _in("gguf"),
}


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name. Raises ConvertError, or FormatError of a GGUF file."""
    return read_head(path, CONTAINERS[path.suffix]).tensors
