"""What to type next, and what would make a better precision fit."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from cpumix.memory.mixing import find_precision, loss_of
from cpumix.memory.planner import (
    CEILING,
    DEFAULT_CONTEXT,
    MemoryPlan,
    choose_precision,
    largest_context,
    make_plan,
)
from cpumix.quant.kv import KV_FORMATS
from cpumix.units import GIB

from .sources import Source

RESIDENT, RUNS = ("fits", "tight"), ("fits", "tight", "pages")
PLACEHOLDER = "CHECKPOINT"
_SHORTEST = 512  # tokens; an answer that needs a shorter context is no help


def commands(source: Source, plan: MemoryPlan, kv: str) -> list[str]:
    """Return the commands that lead to the chosen plan; none if it does not run."""
    if plan.verdict == "no":
        return []
    if source.precision is not None and source.precision.name == plan.precision:
        lines, target = [], str(source.path)
    else:
        folder = str(source.path) if source.is_checkpoint else PLACEHOLDER
        target = f"{source.name}-{plan.precision}.bin"
        words = ["cpumix", "convert", folder, target, "--precision", plan.precision]
        lines = [shlex.join(words)]
    verb = "classify" if source.config.is_classifier else "run"
    words = ["cpumix", verb, target, "-p", "Why is the sky blue?"]
    if source.config.headless:
        words = ["cpumix", "serve", target]
    if plan.context > DEFAULT_CONTEXT:
        words += ["--context", str(plan.context)]
    if kv != "auto":
        words += ["--kv", kv]
    return [*lines, shlex.join(words)]


def advice(source: Source, plan: MemoryPlan, kv: str, forced: bool) -> Iterator[str]:
    """Yield sentences about the choice and what else would do; `forced`: the user named it."""
    yield from _explain(source, plan)
    if plan.verdict in RESIDENT:
        is_free = source.precision is None and not forced
        if is_free and plan.precision not in ("bf16", "int8"):
            yield _would(source, "int8", plan, kv, RESIDENT, "fits into memory")
    else:
        best = choose_precision(
            source.config, plan.ram_bytes, plan.context, kv, plan.parallel, source.side
        )
        if best.precision != plan.precision and best.verdict in RESIDENT:
            yield f"{best.precision} fits into memory as it is: {100 * best.share:.0f} %."
        yield _would(source, plan.precision, plan, kv, RESIDENT, "stays in memory")
        if plan.verdict == "no":
            yield _would(source, plan.precision, plan, kv, RUNS, "runs, reading from disk,")


def _explain(source: Source, plan: MemoryPlan) -> Iterator[str]:
    """Say what a quantized precision is made of, and what it loses."""
    precision = source.precision
    if precision is None or precision.name != plan.precision:
        precision = find_precision(plan.precision, source.config)
    if precision.name == "bf16":
        return
    what = f"{precision.name}: {precision.describe()}"
    loss = loss_of(source.config, precision)
    lost = "" if loss is None else f"; about {loss:.2g} nats lost, as a small model does"
    yield f"{what}{lost}."


def _would(
    source: Source,
    precision: str,
    plan: MemoryPlan,
    kv: str,
    verdicts: tuple[str, ...],
    does: str,
) -> str:
    """Say with which context, KV cache or memory a precision would get one of these verdicts."""
    config, side, ram = source.config, source.side, plan.ram_bytes
    ways = []
    context = largest_context(config, precision, ram, kv, verdicts, plan.parallel, side)
    if _SHORTEST <= context < plan.context:
        ways.append(f"a context of up to {context} tokens")
    now = make_plan(config, precision, plan.context, ram, kv, plan.parallel, side)
    for smaller in KV_FORMATS:
        other = make_plan(config, precision, plan.context, ram, smaller, plan.parallel, side)
        if other.kv_bytes < now.kv_bytes and other.verdict in verdicts:
            ways.append(f"--kv {smaller}")
    needed = now.total_bytes if verdicts == RESIDENT else now.minimum_bytes
    ways.append(f"{-(-int(needed / CEILING) // GIB)} GiB of memory")
    return f"{precision} {does} with " + " or with ".join(ways) + "."
