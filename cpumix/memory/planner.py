"""Say what a model needs in memory, before anything is loaded. Pure arithmetic, no I/O.

    total   = dense part + all experts + KV cache + buffers
    minimum = dense part + the active experts of one layer + KV cache + buffers + the pager's margin

Weights are the bytes of the model file's tensors (scales, padding and page alignment included), so
they are exact. For memory every expert counts; for time only the active ones do. Up to 70 % of the
memory a model *fits*, up to 75 % it is *tight*; above that it *pages*: experts are read from disk
when the router picks them, as long as the minimum is within 75 %. Beyond, the answer is *no*.

`fit`, `convert --precision auto` and `run` all ask here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cpumix.config import ModelConfig
from cpumix.errors import ConfigError, escaped
from cpumix.experts.budget import ARRIVAL_MARGIN
from cpumix.kv import formats
from cpumix.quant.precision import PRECISIONS, Precision
from cpumix.units import format_size

from .mixing import bits_of, find_precision, most_bits
from .side_bytes import NO_SIDE_FILES, SideBytes, program_bytes
from .sizes import PREFILL_TOKENS, buffer_bytes, weight_count, weight_sizes

DEFAULT_CONTEXT = 4096  # tokens of prompt and answer, unless the user says otherwise
# Of second experts, those whose weight is so low that a low copy serves them; measured on a small
# model with its own routing, and taken for all.
LOW_SHARE = 0.66
MOST_PARALLEL = 1 << 20  # sequences that can be planned, far more than any machine has room for
TARGET, CEILING = 0.70, 0.75  # shares of the memory: above, too little is left for other programs


@dataclass(frozen=True)
class MemoryPlan:
    """What one precision and context need of a given amount of memory; all sizes in bytes."""

    precision: str
    context: int
    parallel: int  # sequences at once
    kv: str  # format of the KV cache
    ram_bytes: int
    weights: int  # how many there are
    file_bytes: int  # the tensors of the model file; its header adds the tokenizer
    dense_bytes: int
    expert_bytes: int
    layer_active_bytes: int  # the experts that one token uses in one layer
    token_expert_bytes: int  # the experts that one token uses in all layers
    token_bytes: int  # weights that one token reads: those, and the dense part but the embeddings
    kv_bytes: int
    buffer_bytes: int  # activations, and the program itself with the tokenizer
    startup_bytes: int  # what reading large side files takes; they are not kept in this form

    @property
    def total_bytes(self) -> int:
        """Everything resident: no expert is ever read twice."""
        return max(self.expert_bytes + self.fixed_bytes, self.startup_bytes)

    @property
    def minimum_bytes(self) -> int:
        """The least that runs at all, however slowly; what needs no pager needs no margin."""
        paged = self.layer_active_bytes + self.fixed_bytes + ARRIVAL_MARGIN
        return max(min(paged, self.total_bytes), self.startup_bytes)

    @property
    def fixed_bytes(self) -> int:
        """All but the experts."""
        return self.dense_bytes + self.kv_bytes + self.buffer_bytes

    @property
    def target_bytes(self) -> int:
        """What may be used at ease."""
        return int(TARGET * self.ram_bytes)

    @property
    def ceiling_bytes(self) -> int:
        """What may be used at most."""
        return int(CEILING * self.ram_bytes)

    @property
    def bits_per_weight(self) -> float:
        """Bits of the file for each weight: scales, padding and float32 tensors included."""
        return 8 * self.file_bytes / self.weights

    @property
    def share(self) -> float:
        """The total as a fraction of the memory."""
        return self.total_bytes / self.ram_bytes

    @property
    def verdict(self) -> str:
        """Return "fits", "tight", "pages" or "no"."""
        if self.share <= TARGET:
            return "fits"
        if self.share <= CEILING:
            return "tight"
        return "pages" if self.minimum_bytes <= CEILING * self.ram_bytes else "no"

    @property
    def hit_rate(self) -> float:
        """The share of experts that are in memory when the router picks them.

        Within 75 % of the memory, and if every expert is as likely as any other. What a text
        prefers makes it a little better.
        """
        if self.verdict in ("fits", "tight"):
            return 1.0
        room = self.ceiling_bytes - self.fixed_bytes
        return min(max(room / self.expert_bytes, 0.0), 1.0)

    @property
    def read_bytes_per_token(self) -> int:
        """What one token reads from disk, on average."""
        return round((1 - self.hit_rate) * self.token_expert_bytes)

    def explain(self) -> str:
        """Return the plan as a small table, and what the verdict means."""
        rows = [
            ("dense part", self.dense_bytes),
            ("experts", self.expert_bytes),
            ("KV cache", self.kv_bytes),
            ("buffers", self.buffer_bytes),
            ("total", self.total_bytes),
        ]
        head = f"{self.precision}, context {self.context}, memory {format_size(self.ram_bytes)}"
        table = [f"  {name:<10} {format_size(size):>10}" for name, size in rows]
        return "\n".join([head, *table, self.meaning()])

    def meaning(self) -> str:
        """Return the verdict as a sentence."""
        share = f"{100 * self.share:.0f} % of the memory"
        return {
            "fits": f"fits: {share}, up to 70 % is at ease",
            "tight": f"tight: {share}, 75 % is the most",
            "pages": f"pages: {share}; experts come from disk as the router picks them, about "
            f"{format_size(self.read_bytes_per_token)} a token",
            "no": f"no: even paging needs {format_size(self.minimum_bytes)}, at most "
            f"{format_size(self.ceiling_bytes)} (75 %) can be used",
        }[self.verdict]


def default_context(config: ModelConfig) -> int:
    """Return the context that is planned, and run, when the user names none."""
    return min(DEFAULT_CONTEXT, config.max_position_embeddings)


def make_plan(
    config: ModelConfig,
    precision: str | Precision,
    context: int,
    ram_bytes: int,
    kv: str = "auto",
    parallel: int = 1,
    side: SideBytes = NO_SIDE_FILES,
) -> MemoryPlan:
    """Plan a model at one precision, for `parallel` sequences of up to `context` tokens each.

    `kv` is the format of the KV cache, see `formats.find_format`. `side` is what its tokenizer and
    side files take, where they are known. Raises ConfigError when
    `precision`, `kv` or `context` is not one that the model can have, or `parallel` is below 1 or
    beyond all machines.
    """
    if parallel < 1:
        raise ConfigError(f"parallel: expected 1 sequence or more, found {parallel}.")
    if parallel > MOST_PARALLEL:
        raise ConfigError(
            f"parallel: expected at most {MOST_PARALLEL} sequences, found {escaped(parallel)}."
        )
    chosen = find_precision(precision, config) if isinstance(precision, str) else precision
    kv = formats.find_format(kv, chosen)
    if not 1 <= context <= config.context_limit:
        raise ConfigError(
            f"context: expected 1 to {config.context_limit} tokens, which is what the "
            f"model was made for, found {context}."
        )
    sizes = weight_sizes(config, chosen)
    active = config.num_experts_per_tok
    experts = sizes.total - sizes.dense
    token_experts = sum(sizes.expert) * active
    if chosen.low is not None:
        saved = sum(size - sizes.low for size in sizes.expert) * (active - 1)
        token_experts -= int(LOW_SHARE * saved)
    return MemoryPlan(
        precision=chosen.name,
        context=context,
        parallel=parallel,
        kv=kv,
        ram_bytes=ram_bytes,
        weights=weight_count(config),
        file_bytes=sizes.dense + experts,
        dense_bytes=sizes.dense,
        expert_bytes=experts,
        layer_active_bytes=max(sizes.expert) * active,
        token_expert_bytes=token_experts,
        token_bytes=sizes.dense - sizes.embedding + token_experts,
        kv_bytes=formats.nbytes(config, context, PREFILL_TOKENS, kv, parallel),
        buffer_bytes=program_bytes(config, side) + buffer_bytes(config, context * parallel),
        startup_bytes=side.startup,
    )


def choose_precision(
    config: ModelConfig,
    ram_bytes: int,
    context: int,
    kv: str = "auto",
    parallel: int = 1,
    side: SideBytes = NO_SIDE_FILES,
) -> MemoryPlan:
    """Plan the best precision for the memory; int2, which pages, if none fits.

    A level may take up to 75 %. A mix, which can be had in any size, fills 70 %.
    """
    for level in ("bf16", "int8"):
        plan = make_plan(config, level, context, ram_bytes, kv, parallel, side)
        if plan.share <= CEILING:
            return plan
    plan = fill(config, ram_bytes, context, kv, parallel, side) or plan
    if plan.share <= TARGET:
        return plan
    return make_plan(config, "int2", context, ram_bytes, kv, parallel, side)


def fill(
    config: ModelConfig,
    ram_bytes: int,
    context: int,
    kv: str = "auto",
    parallel: int = 1,
    side: SideBytes = NO_SIDE_FILES,
) -> MemoryPlan | None:
    """Plan the mix that fills 70 % of the memory; None if all mixes are larger, or smaller."""
    least = make_plan(config, "int2", context, ram_bytes, kv, parallel, side)
    room = least.target_bytes - least.kv_bytes - least.buffer_bytes
    bits = 800 * room // least.weights / 100  # hundredths, as the names of mixes have them
    if not least.bits_per_weight <= bits <= bits_of(config, PRECISIONS["int8"]):
        return None
    bits = min(bits, most_bits(config))
    return make_plan(config, f"mix-{bits:g}", context, ram_bytes, kv, parallel, side)


def largest_context(
    config: ModelConfig,
    precision: str | Precision,
    ram_bytes: int,
    kv: str = "auto",
    verdicts: tuple[str, ...] = ("fits", "tight"),
    parallel: int = 1,
    side: SideBytes = NO_SIDE_FILES,
) -> int:
    """Return the longest context that gets one of these verdicts; 0 if none does."""

    def plan_of(context: int) -> MemoryPlan:
        return make_plan(config, precision, context, ram_bytes, kv, parallel, side)

    return _largest(config.context_limit, lambda c: plan_of(c).verdict in verdicts)


def largest_context_within(
    config: ModelConfig,
    precision: str | Precision,
    budget_bytes: int,
    kv: str = "auto",
    parallel: int = 1,
    side: SideBytes = NO_SIDE_FILES,
) -> int:
    """Return the longest context that runs, paging or not, in so much memory; 0 if none does."""

    def fits(context: int) -> bool:
        plan = make_plan(config, precision, context, budget_bytes, kv, parallel, side)
        return plan.minimum_bytes <= budget_bytes

    return _largest(config.context_limit, fits)


def _largest(most: int, holds: Callable[[int], bool]) -> int:
    """Return the largest number up to `most` that something holds for, as for all below it."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
