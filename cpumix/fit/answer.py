"""Plans every precision of a model for a machine, chooses one, and says what to do next."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cpumix.memory.mixing import find_precision
from cpumix.memory.planner import (
    MemoryPlan,
    choose_precision,
    default_context,
    fill,
    make_plan,
)
from cpumix.quant.precision import PRECISIONS, REFERENCE, Precision

from .advice import advice, commands
from .low_copies import offer_low_copies
from .sources import Source
from .speed import Bandwidths, tokens_per_second

EXIT_STATUS = {"fits": 0, "tight": 0, "pages": 3, "no": 4}


@dataclass(frozen=True)
class PlanRow:
    """One precision of the model."""

    plan: MemoryPlan
    file_bytes: int
    tok_s: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers under the names that `--json` uses."""
        plan = self.plan
        return {
            "precision": plan.precision,
            "bits_per_weight": plan.bits_per_weight,
            "file_bytes": self.file_bytes,
            "weight_bytes": plan.dense_bytes + plan.expert_bytes,
            "kv": plan.kv,
            "kv_bytes": plan.kv_bytes,
            "buffer_bytes": plan.buffer_bytes,
            "total_bytes": plan.total_bytes,
            "minimum_bytes": plan.minimum_bytes,
            "share_of_ram": plan.share,
            "verdict": plan.verdict,
            "read_bytes_per_token": plan.read_bytes_per_token,
            "active_bytes_per_token": plan.token_bytes,
            "tok_s": list(self.tok_s),
        }


@dataclass(frozen=True)
class Answer:
    """What fits: a row for each precision, best first, and the one to take."""

    source: Source
    rows: tuple[PlanRow, ...]
    choice: PlanRow
    bandwidths: Bandwidths
    advice: tuple[str, ...]
    commands: tuple[str, ...]

    @property
    def active_weights(self) -> int:
        """How many weights one token is multiplied with, or looked up."""
        config = self.source.config
        expert = 3 * config.hidden_size * config.intermediate_size * config.num_hidden_layers
        idle = config.num_local_experts - config.num_experts_per_tok
        return self.choice.plan.weights - idle * expert

    @property
    def exit_status(self) -> int:
        """0 if the choice stays in memory, 3 if it pages, 4 if it does not run."""
        return EXIT_STATUS[self.choice.plan.verdict]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as `--json` writes it."""
        plan = self.choice.plan
        return {
            "model": self.source.name,
            "weights": plan.weights,
            "active_weights": self.active_weights,
            "ram_bytes": plan.ram_bytes,
            "target_bytes": plan.target_bytes,
            "ceiling_bytes": plan.ceiling_bytes,
            "context": plan.context,
            "parallel": plan.parallel,
            "kv": plan.kv,
            "choice": plan.precision,
            "verdict": plan.verdict,
            "bandwidths": asdict(self.bandwidths),
            "rows": [row.to_dict() for row in self.rows],
            "advice": list(self.advice),
            "commands": list(self.commands),
        }


def answer(
    source: Source,
    ram_bytes: int,
    context: int | None,
    bandwidths: Bandwidths,
    *,
    kv: str = "auto",
    precision: str = "auto",
    parallel: int = 1,
) -> Answer:
    """Plan `source` for a machine of `ram_bytes`, and choose a precision unless one is given.

    `parallel` sequences have a context of their own each.
    A model file has its precision already. Raises ConfigError for a context, precision or format of
    the KV cache that the model cannot have.
    """
    config, side = source.config, source.side
    if context is None:
        context = default_context(config)
    chosen: str | Precision
    if precision != "auto":
        chosen = find_precision(precision, config)
    elif source.precision is not None:
        chosen = source.precision
    else:
        chosen = choose_precision(config, ram_bytes, context, kv, parallel, side).precision
    best = make_plan(config, chosen, context, ram_bytes, kv, parallel, side)

    def row(plan: MemoryPlan) -> PlanRow:
        size = plan.file_bytes + source.header_bytes
        return PlanRow(plan, size, tokens_per_second(plan, config.num_hidden_layers, bandwidths))

    others = [make_plan(config, REFERENCE, context, ram_bytes, kv, parallel, side)]
    for name in PRECISIONS:
        others.append(make_plan(config, name, context, ram_bytes, kv, parallel, side))
    if mix := fill(config, ram_bytes, context, kv, parallel, side):
        others.append(mix)
    plans = [best, *(plan for plan in others if plan.precision != best.precision)]
    plans.sort(key=lambda plan: -plan.file_bytes)
    rows = tuple(row(plan) for plan in plans)
    return Answer(
        source,
        rows,
        next(r for r in rows if r.plan is best),
        bandwidths,
        (
            *advice(source, best, kv, forced=precision != "auto"),
            *offer_low_copies(source, best, kv, bandwidths),
        ),
        tuple(commands(source, best, kv)),
    )
