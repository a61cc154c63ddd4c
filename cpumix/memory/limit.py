"""How much memory this process may have, and what of it the pager may fill with experts.

The ceiling is what `--ram` says, or 75 % of the machine's or container's memory, and less if other
programs have it now. It holds for everything: program, dense part, KV cache, buffers, experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from cpumix.config import ModelConfig
from cpumix.errors import BudgetError
from cpumix.experts import Budget
from cpumix.machine import MachineInfo, rss_bytes
from cpumix.quant.precision import Precision
from cpumix.units import MIB, format_size, parse_size

from .planner import CEILING, MemoryPlan, largest_context_within, make_plan
from .side_bytes import NO_SIDE_FILES, SideBytes, count_side_bytes, program_bytes
from .sizes import PREFILL_TOKENS

T = TypeVar("T")


class MemoryLimit(NamedTuple):
    """A limit in bytes; `note` says so when it is not what the user expects."""

    nbytes: int
    note: str | None


class MemoryBudget(NamedTuple):
    """What a process may take."""

    pager: Budget | None
    """None if all experts fit."""
    note: str | None
    """On the ceiling, if it is not what the user expects."""
    room: int
    """Bytes that the plan leaves over."""


def find_ceiling(ram: str | int | None, machine: MachineInfo, minimum: int) -> MemoryLimit:
    """Return the ceiling for `ram`, or for all that the machine can spare.

    Others' memory counts only as far as the rest is enough for `minimum`: below that the system
    may as well take the pages back from whom it likes.
    """
    limit = machine.limit_bytes
    if ram is not None:
        asked = parse_size(str(ram))
        if asked <= limit:
            return MemoryLimit(asked, None)
        return MemoryLimit(
            limit,
            f"memory: {format_size(asked)} asked for, but this machine or container has "
            f"{format_size(limit)}; using that",
        )
    most = int(CEILING * limit)
    free = max(machine.available_bytes, minimum)
    if free >= most:
        return MemoryLimit(most, None)
    return MemoryLimit(
        free,
        f"memory: other programs leave {format_size(machine.available_bytes)} of "
        f"{format_size(limit)} free now; using {format_size(free)}. Set --ram to change it",
    )


def make_budget(
    config: ModelConfig,
    precision: Precision,
    context: int,
    kv: str,
    ram: str | int | None,
    machine: MachineInfo,
    parallel: int = 1,
    side: SideBytes = NO_SIDE_FILES,
) -> MemoryBudget:
    """Return what the process may take; `side` is what its tokenizer and side files take.

    Raises BudgetError when not even the experts of one token and layer fit, ConfigError for a
    `ram` or `context` that is none.
    """
    plan = make_plan(config, precision, context, machine.limit_bytes, kv, parallel, side)
    ceiling, note = find_ceiling(ram, machine, plan.minimum_bytes)
    if side.startup > ceiling:
        raise BudgetError(
            f"memory: reading the tokenizer and side files may take {format_size(side.startup)}, "
            f"found a budget of {format_size(ceiling)}. Use --ram {-(-side.startup // MIB)}M or "
            "more, or convert again without the files that the model does not need."
        )
    if plan.minimum_bytes > ceiling:
        most = largest_context_within(config, precision, ceiling, kv, parallel, side)
        shorter = f", or a --context of at most {most}" if most else ""
        raise BudgetError(
            f"memory: a budget of {format_size(ceiling)} is below the "
            f"{format_size(plan.minimum_bytes)} that this model needs at {plan.precision} with "
            f"a context of {context}. Use --ram {-(-plan.minimum_bytes // MIB)}M or more{shorter}."
        )
    if plan.total_bytes <= ceiling:
        return MemoryBudget(None, note, ceiling - plan.total_bytes)
    budget = _budget(config, plan, ceiling, side)
    return MemoryBudget(budget, note, ceiling - plan.minimum_bytes)


def read_within_budget(
    read: Callable[[Mapping[str, bytes]], T],
    files: Mapping[str, bytes],
    config: ModelConfig,
    make: Callable[[SideBytes], MemoryBudget],
) -> tuple[T, MemoryBudget]:
    """Return what `read` makes of a model's side files, and the budget that `make` makes with it.

    What is too large by the sizes of the files is refused before they are read.
    """
    side = count_side_bytes(files, config.vocab_size)
    make(side)
    before = rss_bytes()
    found = read(files)
    return found, make(side.at_least(rss_bytes() - before, config.vocab_size))


def _budget(config: ModelConfig, plan: MemoryPlan, ceiling: int, side: SideBytes) -> Budget:
    program = program_bytes(config, side)
    rows = min(PREFILL_TOKENS, plan.context * plan.parallel)
    return Budget(
        ceiling=ceiling,
        least=plan.layer_active_bytes,
        kv_bytes=plan.kv_bytes,
        row_bytes=(plan.buffer_bytes - program) // rows,
        startup_bytes=program,
        memory=rss_bytes,
    )
