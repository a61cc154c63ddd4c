"""Say what a model needs in memory, before anything is loaded. Pure arithmetic, no I/O.

    total   = dense part + all experts + KV cache + buffers
    minimum = dense part + the active experts of one layer + KV cache + buffers

Weights are the bytes of the model file's tensors (scales, padding and page alignment included), so
they are exact. For memory every expert counts; for time only the active ones do. Up to 70 % of the
memory a model *fits*, up to 75 % it is *tight*; above that it *pages*: experts are read from disk
when the router picks them, as long as the minimum is within 75 %. Beyond, the answer is *no*.
"""

from __future__ import annotations

from dataclasses import dataclass

from cpumix import kv_cache
from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.quant.precision import PRECISIONS
from cpumix.store.gguf import align
from cpumix.store.layout import ALIGNMENT, build_entries
from cpumix.units import MIB, format_size, parse_size

TARGET, CEILING = 0.70, 0.75  # shares of the memory: above, too little is left for other programs
PREFILL_TOKENS = 512  # tokens of a prompt that go through the model together
# Interpreter, NumPy, Numba with LLVM, loaded kernels: 146 to 153 MiB on Linux, Python 3.11 (peak
# minus all the rest, demo model). The very first run, which compiles, takes 90 MiB more.
BASELINE_BYTES = 150 * MIB


@dataclass(frozen=True)
class MemoryPlan:
    """What one precision and context need of a given amount of memory; all sizes in bytes."""

    precision: str
    context: int
    kv: str  # format of the KV cache
    ram_bytes: int
    file_bytes: int  # the tensors of the model file; its header adds the tokenizer
    dense_bytes: int
    expert_bytes: int
    layer_active_bytes: int  # the experts that one token uses in one layer
    token_bytes: int  # weights that one token reads in all layers
    kv_bytes: int
    buffer_bytes: int

    @property
    def total_bytes(self) -> int:
        """Everything resident: no expert is ever read twice."""
        return self.dense_bytes + self.expert_bytes + self.kv_bytes + self.buffer_bytes

    @property
    def minimum_bytes(self) -> int:
        """The least that runs at all, however slowly."""
        return self.dense_bytes + self.layer_active_bytes + self.kv_bytes + self.buffer_bytes

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

    def explain(self) -> str:
        """Return the plan as a small table, and what the verdict means."""
        rows = [
            ("dense part", self.dense_bytes),
            ("experts", self.expert_bytes),
            ("KV cache", self.kv_bytes),
            ("buffers", self.buffer_bytes),
            ("total", self.total_bytes),
        ]
        share = f"{100 * self.share:.0f} % of the memory"
        minimum, ceiling = self.minimum_bytes, int(CEILING * self.ram_bytes)
        read = self.token_bytes - self.dense_bytes
        meaning = {
            "fits": f"fits: {share}, up to 70 % is at ease",
            "tight": f"tight: {share}, 75 % is the most",
            "pages": f"pages: {share}; experts come from disk as the router picks them, up to "
            f"{format_size(read)} a token",
            "no": f"no: even paging needs {format_size(minimum)}, at most {format_size(ceiling)} "
            f"(75 %) can be used",
        }
        head = f"{self.precision}, context {self.context}, memory {format_size(self.ram_bytes)}"
        table = [f"  {name:<10} {format_size(size):>10}" for name, size in rows]
        return "\n".join([head, *table, meaning[self.verdict]])


def make_plan(
    config: ModelConfig, precision: str, context: int, ram_bytes: int, kv: str = "auto"
) -> MemoryPlan:
    """Plan a model at one precision.

    `kv` is the format of the KV cache: "f16", "f32", or "auto", which is "f32" for bf16 weights
    (who wants exact numbers wants them throughout) and "f16" for the others. Raises ConfigError
    when `precision`, `kv` or `context` is not one that the model can have.
    """
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ConfigError(f'precision: expected one of {known}, found "{precision}".')
    if kv == "auto":
        kv = "f32" if precision == "bf16" else "f16"
    if kv not in kv_cache.FORMATS:
        known = ", ".join(kv_cache.FORMATS)
        raise ConfigError(f'KV cache: expected one of {known}, found "{kv}".')
    if not 1 <= context <= config.max_position_embeddings:
        raise ConfigError(
            f"context: expected 1 to {config.max_position_embeddings} tokens, which is what the "
            f"model was made for, found {context}."
        )
    dense = experts = one_expert = 0
    for entry in build_entries(config, precision):
        size = align(entry.nbytes, ALIGNMENT)
        if ".expert." in entry.name:
            experts += size
            one_expert = size
        else:
            dense += size
    layer_active = config.num_experts_per_tok * one_expert
    return MemoryPlan(
        precision=precision,
        context=context,
        kv=kv,
        ram_bytes=ram_bytes,
        file_bytes=dense + experts,
        dense_bytes=dense,
        expert_bytes=experts,
        layer_active_bytes=layer_active,
        token_bytes=dense + config.num_hidden_layers * layer_active,
        kv_bytes=kv_cache.nbytes(config, context, PREFILL_TOKENS, kv),
        buffer_bytes=BASELINE_BYTES + buffer_bytes(config, context),
    )


def choose_precision(
    config: ModelConfig, ram_bytes: int, context: int, kv: str = "auto"
) -> MemoryPlan:
    """Plan the most precise level that stays within 75 % of the memory; else int4, which pages."""
    plans = [make_plan(config, level, context, ram_bytes, kv) for level in ("bf16", "int8", "int4")]
    return next((plan for plan in plans if plan.share <= CEILING), plans[-1])


def plan(
    config: ModelConfig,
    *,
    ram: str | int,
    context: int = 4096,
    precision: str = "auto",
    kv: str = "auto",
) -> MemoryPlan:
    """Plan a model for `ram`, "64G" or bytes; precision "auto" takes the best level that fits."""
    ram_bytes = parse_size(str(ram))
    context = min(context, config.max_position_embeddings)
    if precision == "auto":
        return choose_precision(config, ram_bytes, context, kv)
    return make_plan(config, precision, context, ram_bytes, kv)


def buffer_bytes(config: ModelConfig, context: int) -> int:
    """Return the bytes of the rows of activations that a prefill batch touches, and of the logits.

    Rows are float32, and those that quantized weights read are 8-bit codes too, with a scale and a
    sum for each 32 of them: 1.25 bytes more.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv, active = config.q_size, config.kv_size, config.num_experts_per_tok
    values = 3 * hidden + 2 * q + 2 * kv + active * (2 * hidden + inner)
    codes = hidden + q + active * (hidden + inner)
    rows = min(PREFILL_TOKENS, context)
    return int(rows * (4 * values + 1.25 * codes)) + 4 * config.vocab_size
