"""What the head of a file tells: the tensors that are in it, and what is said of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .random_access import RandomAccess, open_local
from .stored import StoredTensor


class Head(NamedTuple):
    """What a container's parser returns of a file, or of all parts of a split one."""

    tensors: dict[str, StoredTensor]
    """By their names there."""
    metadata: Mapping[str, Any] = MappingProxyType({})
    """Of the model, where the container has some."""


ParseHead = Callable[[RandomAccess], Head]
"""Raises ConvertError or FormatError unless every tensor that it returns lies inside the file."""
Heads = Mapping[Path, Head]
"""Those of files that are not here yet, by path."""
NO_HEADS: Heads = MappingProxyType({})


def read_head(path: Path, parse: ParseHead, heads: Heads = NO_HEADS) -> Head:
    """Return the head of a file, which is among `heads` if the file is not here."""
    return heads[path] if path in heads else parse(open_local(path))
