"""`cpumix.plan`: what a model needs in memory, by its config, its name or where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from cpumix.checkpoint.sources.huggingface import from_fields
from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.memory.planner import DEFAULT_CONTEXT, MemoryPlan, choose_precision, make_plan
from cpumix.units import parse_size

from .sources import open_source


def plan(
    model: ModelConfig | Mapping[str, Any] | str | PathLike[str],
    *,
    ram: str | int,
    context: int = DEFAULT_CONTEXT,
    precision: str = "auto",
    kv: str = "auto",
    parallel: int = 1,
) -> MemoryPlan:
    """Plan a model for `ram`, "64G" or bytes; precision "auto" takes the best level that fits.

    `model` is a config, the fields of a config.json, a name such as "mixtral-8x7b", or what
    `cpumix fit` takes: a checkpoint, a model file, a config.json. Raises ConfigError.
    """
    config = _config(model)
    ram_bytes = parse_size(str(ram))
    context = min(context, config.context_limit)
    if precision == "auto":
        return choose_precision(config, ram_bytes, context, kv, parallel)
    return make_plan(config, precision, context, ram_bytes, kv, parallel)


def _config(model: object) -> ModelConfig:
    if isinstance(model, ModelConfig):
        return model
    if isinstance(model, Mapping):
        return from_fields(model, "config")
    if isinstance(model, (str, PathLike)):
        return open_source(fspath(model)).config
    raise ConfigError(
        'model: expected a config, the fields of one, a path or a name such as "mixtral-8x7b", '
        f"found {type(model).__name__}."
    )
