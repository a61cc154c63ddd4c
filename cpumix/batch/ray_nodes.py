"""What nodes of a Ray cluster have, and what an actor with a model takes of it."""

from __future__ import annotations

from typing import Any

import ray

from cpumix.machine import machine_info
from cpumix.memory.planner import make_plan
from cpumix.store.reader import ModelFile

from .worker import ModelOptions


def usable_nodes() -> list[dict[str, Any]]:
    """Return the nodes that live and have processors, as `ray.nodes` has them."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def needed_bytes(options: ModelOptions, context: int, kv: str) -> int:
    """Return the memory that an actor asks for: what it may take, or else what the plan says."""
    if options.ram is not None:
        return options.ram
    with ModelFile(options.path) as file:
        config, formats = file.config, file.formats
    return make_plan(config, formats, context, 1, kv, options.parallel).total_bytes


def given_threads(spare: int = 0, actors: int = 1) -> int | None:
    """Return as many threads as the processors that Ray gives this actor, and `spare` more.

    No more than its share of the cores, where `actors` are on a node. None outside of an actor.
    """
    context = ray.get_runtime_context() if ray.is_initialized() else None
    if context is None or context.get_actor_id() is None:
        return None
    given = context.get_assigned_resources().get("CPU", 0)
    return max(min(int(given) + spare, machine_info().physical_cores // actors), 1)
