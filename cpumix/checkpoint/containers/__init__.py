"""Bytes on disk to stored tensors by name: one file each container, one row in `CONTAINERS`.

A container is a function from a file, which may be elsewhere, to its `Head`. It reads no more than
that and trusts nothing in it: it raises unless every tensor that it returns lies inside the file.
"""

from __future__ import annotations

from pathlib import Path

from ..head import ParseHead, read_head
from ..stored import StoredTensor
from . import gguf, npz, safetensors, torch

__all__ = ["CONTAINERS", "read_tensors"]

CONTAINERS: dict[str, ParseHead] = {  # by the file's suffix
    ".safetensors": safetensors.parse_head,
    ".bin": torch.parse_head,
    ".pt": torch.parse_head,
    ".pth": torch.parse_head,
    ".npz": npz.parse_head,
    ".gguf": gguf.parse_head,
}


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name. Raises ConvertError, or FormatError of a GGUF file."""
    return read_head(path, CONTAINERS[path.suffix]).tensors
