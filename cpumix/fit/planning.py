"""`cpumix.plan`: what a model needs in memory, by its config, its name or where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from cpumix.checkpoint.sources.huggingface import from_fields
from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.memory.planner import DEFAULT_CONTEXT, MemoryPlan, choose_precision, make_plan
from cpumix.memory.side_bytes import NO_SIDE_FILES, SideBytes
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
    config, side = _needs(model)
    ram_bytes = parse_size(str(ram))
    context = min(context, config.context_limit)
    if precision == "auto":
        return choose_precision(config, ram_bytes, context, kv, parallel, side)
    return make_plan(config, precision, context, ram_bytes, kv, parallel, side)


def _needs(model: object) -> tuple[ModelConfig, SideBytes]:
    if isinstance(model, ModelConfig):
        return model, NO_SIDE_FILES
    if isinstance(model, Mapping):
        return from_fields(model, "config"), NO_SIDE_FILES
    if isinstance(model, (str, PathLike)):
        source = open_source(fspath(model))
        return source.config, source.side
    raise ConfigError(
        'model: expected a config, the fields of one, a path or a name such as "mixtral-8x7b", '
        f"found {type(model).__name__}."
    )
