"""Bytes on disk to stored tensors by name: one file each container, one row in `CONTAINERS`.

A container is a function from a path to `StoredTensor`s by name. It reads headers only and trusts
nothing in them: it raises ConvertError unless every tensor it returns lies inside the file. Its
module is imported for the first such file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cpumix.lazy import later

from ..stored import StoredTensor

__all__ = ["CONTAINERS"]

Container = Callable[[Path], dict[str, StoredTensor]]


def _in(module: str) -> Container:
    """Return the container in a module of this folder."""
    return later(f"{__name__}.{module}", "read_header")


CONTAINERS: dict[str, Container] = {  # by the file's suffix
    ".safetensors": _in("safetensors"),
    ".bin": _in("torch"),
    ".pt": _in("torch"),
    ".pth": _in("torch"),
    ".npz": _in("npz"),
}
