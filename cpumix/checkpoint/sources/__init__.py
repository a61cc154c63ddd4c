"""What people point at, one file each kind: a folder of transformers, of Mistral, a GGUF file.

A source is a module with three functions: `claims(path)` tells by names alone whether it is one,
`read_config(path, ignored)` returns its `ModelConfig`, `read(path, ignored, heads)` its `Contents`,
in which shards may be that are not there yet. The last two pass over the fields of the config that
are `ignored`, and raise ConvertError or ConfigError. `open` tries the rows of `SOURCES` in order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from cpumix.config import ModelConfig

from ..shards import Heads
from ..tensor import Contents
from . import gguf, huggingface, mistral

__all__ = ["SOURCES", "Source"]


class CheckpointSource(NamedTuple):
    """One kind of thing that holds a checkpoint."""

    claims: Callable[[Path], bool]
    read_config: Callable[[Path, Collection[str]], ModelConfig]
    read: Callable[[Path, Collection[str], Heads], Contents]


SOURCES: dict[str, CheckpointSource] = {
    "Mistral": CheckpointSource(mistral.claims, mistral.read_config, mistral.read),
    "GGUF": CheckpointSource(gguf.claims, gguf.read_config, gguf.read),
    "Hugging Face": CheckpointSource(huggingface.claims, huggingface.read_config, huggingface.read),
}
