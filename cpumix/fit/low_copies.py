"""Where low copies of the experts would make a plan faster (see `experts.low_copies`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cpumix.memory.mixing import find_precision
from cpumix.memory.planner import MemoryPlan, make_plan
from cpumix.quant.precision import LOW_COPIES
from cpumix.units import format_size

from .sources import Source
from .speed import Bandwidths, tokens_per_second

WORTH = 1.05  # times as fast, at the least: the file grows by a third or more


def offer_low_copies(source: Source, plan: MemoryPlan, kv: str, width: Bandwidths) -> Iterator[str]:
    """Yield a sentence if a conversion with low copies would run a plan's precision faster."""
    config = source.config
    if source.precision is not None or config.num_experts_per_tok < 2 or plan.verdict == "no":
        return
    precision = replace(find_precision(plan.precision, config), low=LOW_COPIES)
    low = make_plan(config, precision, plan.context, plan.ram_bytes, kv, plan.parallel, source.side)
    if low.verdict != plan.verdict:
        return
    layers = config.num_hidden_layers
    (slow, _), (faster, most) = (tokens_per_second(p, layers, width) for p in (plan, low))
    if faster >= WORTH * slow:
        grown = format_size(low.file_bytes - plan.file_bytes)
        yield (
            f"convert --low-copy makes it faster, {faster:.2g}-{most:.2g} tok/s: two of three "
            f"second experts are then read in 2 bits. The file grows by {grown}."
        )
