"""What people point at, one file each kind: a folder of transformers, of Mistral, a GGUF file.

A source is a module with four functions: `claims(path, heads)` tells by names alone whether it is
one, `read_config(path, ignored)` returns its `ModelConfig`, `read_files(path)` its side files by
name, `read(path, ignored, heads)` its `Contents`. Files that are not there yet are among `heads`.
Where fields of the config are `ignored`, they are passed over. All but the first raise ConvertError
or ConfigError. `open` tries the rows of `SOURCES` in order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from cpumix.config import ModelConfig

from ..head import Heads
from ..tensor import Contents
from . import gguf, huggingface, mistral

__all__ = ["SOURCES", "Source"]


class CheckpointSource(NamedTuple):
    """One kind of thing that holds a checkpoint."""

    claims: Callable[[Path, Heads], bool]
    read_config: Callable[[Path, Collection[str]], ModelConfig]
    read_files: Callable[[Path], Mapping[str, bytes]]
    read: Callable[[Path, Collection[str], Heads], Contents]


SOURCES = {
    name: CheckpointSource(s.claims, s.read_config, s.read_files, s.read)
    for name, s in {"Mistral": mistral, "GGUF": gguf, "Hugging Face": huggingface}.items()
}
