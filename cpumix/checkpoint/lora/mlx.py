"""Adapters of mlx-lm: adapters.safetensors and adapter_config.json.

    a module            lora_a (columns, rank), lora_b (rank, rows)
    a stack of experts  lora_a (experts, rank, columns), lora_b (experts, rows, rank)
    the embedding       lora_a (vocabulary, rank), lora_b (rank, hidden)
    DoRA                m (rows,)

W += scale * (lora_a lora_b)^T, not transposed for the embedding, with lora_parameters.scale as it
is: not divided by the rank. Source: https://github.com/ml-explore/mlx-lm, mlx_lm/tuner/lora.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cpumix.config import ModelConfig, Role
from cpumix.errors import ConfigError, quoted

from ..containers import read_tensors
from ..encodings.plain import PlainMatrix
from ..files import read_json
from ..matrix import Matrix
from ..namings.huggingface import namings
from ..namings.places import Stacked
from ..views import RowRange, Transposed
from .adapter import Adapter, by_module, check_factors, find_targets, is_factor, low_rank, unknown
from .low_rank import LowRank

FILE, CONFIG = "adapters.safetensors", "adapter_config.json"
_SUFFIXES = {"lora_a": "a", "lora_b": "b", "m": "magnitude"}


def claims(folder: Path) -> bool:
    """Whether this is an adapter of mlx-lm."""
    return (folder / FILE).exists()


def read(folder: Path, config: ModelConfig, scale: float) -> Adapter:
    """Return what an adapter changes in a model, times `scale`."""
    path = folder / FILE
    scale *= _scale(folder / CONFIG)
    targets = find_targets(config, namings(config.family))
    added: dict[str, LowRank] = {}
    for module, parts in by_module(read_tensors(path), _SUFFIXES):
        if module not in targets or not {"a", "b"} <= parts.keys():
            raise unknown(module, path)
        a, b = PlainMatrix(parts["a"]), PlainMatrix(parts["b"])
        for spec, place in targets[module]:
            up: Matrix = a if spec.role is Role.EMBEDDING else Transposed(b)
            down: Matrix = b if spec.role is Role.EMBEDDING else Transposed(a)
            if isinstance(place, Stacked):
                rows, columns = place.parts * spec.shape[0], spec.shape[1]
                rank = a.shape[1] if len(a.shape) == 3 else 0
                fits = a.shape == (config.num_local_experts, rank, columns)
                fits = fits and b.shape == (config.num_local_experts, rows, rank)
                check_factors(fits, spec.name, spec.shape, b, a)
                expert = spec.expert or 0
                up, down = place.view(b, spec, config), RowRange(a, expert * rank, rank)
            added[spec.name] = low_rank(
                up, down, scale, spec.name, spec.shape, parts.get("magnitude")
            )
    return Adapter(path, added)


def _scale(path: Path) -> float:
    settings = read_json(path)
    parameters = settings.get("lora_parameters")
    scale: Any = parameters.get("scale") if isinstance(parameters, dict) else None
    kind = settings.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora") or not is_factor(scale):
        raise ConfigError(
            f'"{path}": expected the fine_tune_type lora or dora and a scale in lora_parameters, '
            f"found {quoted(kind)} and {quoted(scale)}. Fuse the adapter with mlx-lm."
        )
    return float(scale)
