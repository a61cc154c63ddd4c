"""Merges low-rank adapters into a checkpoint of any form, while its rows are read.

One file each kind of adapter; `adapter` has what they share, `low_rank` the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cpumix.config import ModelConfig
from cpumix.errors import ConvertError

from ..containers import read_tensors
from ..files import read_json
from ..tensor import Checkpoint
from . import mistral, mlx, peft
from .adapter import Adapter, merge

__all__ = ["AdapterFacts", "describe_adapter", "merge_adapter"]


class _Kind(NamedTuple):
    """One kind of adapter."""

    claims: Callable[[Path], bool]
    read: Callable[[Path, ModelConfig, float], Adapter]
    files: tuple[str, ...]
    """What the weights may be called."""


class AdapterFacts(NamedTuple):
    """What an adapter says of itself, without the model that it is for."""

    kind: str
    base: str | None
    """Name or path of the model that it was trained on."""
    settings: dict[str, Any]
    """Of adapter_config.json, those that say how large the change is."""
    tensors: int
    nbytes: int


_KINDS = {
    "PEFT": _Kind(peft.claims, peft.read, peft.WEIGHTS),
    "mlx-lm": _Kind(mlx.claims, mlx.read, (mlx.FILE,)),
    "Mistral": _Kind(mistral.claims, mistral.read, (mistral.FILE,)),
}
_SETTINGS = (
    *("r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "target_parameters"),
    *("modules_to_save", "fine_tune_type", "lora_parameters"),
)


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


def describe_adapter(folder: Path) -> AdapterFacts | None:
    """Return what is in a folder with an adapter; None if there is none. Raises ConvertError."""
    name = next((name for name, kind in _KINDS.items() if kind.claims(folder)), None)
    if name is None:
        return None
    path = next(folder / file for file in _KINDS[name].files if (folder / file).exists())
    stored = read_tensors(path)
    config = folder / peft.CONFIG
    fields = read_json(config) if config.exists() else {}
    base = fields.get("base_model_name_or_path", fields.get("model"))
    settings = {key: fields[key] for key in _SETTINGS if fields.get(key) not in (None, False, [])}
    nbytes = sum(tensor.nbytes for tensor in stored.values())
    return AdapterFacts(name, None if base is None else str(base), settings, len(stored), nbytes)
