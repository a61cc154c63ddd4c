"""Merges low-rank adapters into a checkpoint of any form, while its rows are read.

One file each kind of adapter; `adapter` has what they share, `low_rank` the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cpumix.config import ModelConfig
from cpumix.errors import ConvertError

from ..tensor import Checkpoint
from . import mistral, mlx, peft
from .adapter import Adapter, merge

__all__ = ["merge_adapter"]


class _Kind(NamedTuple):
    """One kind of adapter."""

    claims: Callable[[Path], bool]
    read: Callable[[Path, ModelConfig, float], Adapter]


_KINDS = {
    "PEFT": _Kind(peft.claims, peft.read),
    "mlx-lm": _Kind(mlx.claims, mlx.read),
    "Mistral": _Kind(mistral.claims, mistral.read),
}


def merge_adapter(checkpoint: Checkpoint, folder: Path, scale: float = 1.0) -> Checkpoint:
    """Return a checkpoint whose tensors have an adapter merged in, `scale` times.

    Raises ConvertError or ConfigError if the adapter is not one for this model.
    """
    kind = next((kind for kind in _KINDS.values() if kind.claims(folder)), None)
    if kind is None:
        raise ConvertError(
            f"adapter: expected a folder with adapter_model.safetensors, adapters.safetensors or "
            f'lora.safetensors, found none in "{folder}". Name the folder of a LoRA.'
        )
    return merge(checkpoint, kind.read(folder, checkpoint.config, scale))
