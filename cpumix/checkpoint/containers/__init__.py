"""Bytes on disk to stored tensors by name: one file each container, one row in `CONTAINERS`.

A container is a function from a path to `StoredTensor`s by name. It reads headers only and trusts
nothing in them: it raises ConvertError unless every tensor it returns lies inside the file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..stored import StoredTensor
from . import npz, safetensors, torch

__all__ = ["CONTAINERS"]

CONTAINERS: dict[str, Callable[[Path], dict[str, StoredTensor]]] = {  # by the file's suffix
    ".safetensors": safetensors.read_header,
    ".bin": torch.read_header,
    ".pt": torch.read_header,
    ".pth": torch.read_header,
    ".npz": npz.read_header,
}
