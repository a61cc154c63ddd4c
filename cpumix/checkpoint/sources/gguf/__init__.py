"""A GGUF file of another program, or the first part of a split one: all that a model needs."""

from __future__ import annotations

from pathlib import Path

from cpumix.lazy import later

from ...containers.gguf_files import is_gguf, models_in
from ...head import Heads
from .. import huggingface

__all__ = ["claims", "read", "read_config", "read_files"]

read_config = later(f"{__name__}.contents", "read_config")
read_files = later(f"{__name__}.contents", "read_files")
read = later(f"{__name__}.contents", "read")


def claims(path: Path, heads: Heads) -> bool:
    """Whether this is a GGUF file, or a folder with some and with no weights of other kinds."""
    if not path.is_dir():
        return path in heads or is_gguf(path)
    return bool(models_in(path)) and not any(k.exists(path, heads) for k in huggingface.SHARDS)
