"""From bandwidths to tokens per second: decode is bound by reading weights, from memory or disk."""

from __future__ import annotations

from dataclasses import dataclass

from cpumix.memory.planner import MemoryPlan

# Shares of the bandwidths that decode reaches; cpumix bench on Zen 4, full-width layers of Mixtral.
MEMORY_SHARE = 0.65, 0.97
DISK_SHARE = 0.70, 1.0
# What a layer costs besides: starting threads, norms, routing. From the demo model, whose weights
# take no time.
LAYER_SECONDS = 0.30e-3, 0.10e-3


@dataclass(frozen=True)
class Bandwidths:
    """How fast weights come, in bytes per second, and how that is known."""

    memory: float
    disk: float
    measured_memory: bool
    measured_disk: bool

    def describe(self) -> str:
        """Return both, and how each is known."""
        parts = (
            (f"memory {self.memory / 1e9:.3g} GB/s", self.measured_memory),
            (f"disk {self.disk / 1e9:.2g} GB/s", self.measured_disk),
        )
        told = [f"{text}, {'measured' if known else 'assumed'}" for text, known in parts]
        return "; ".join(told)


ASSUMED = Bandwidths(30e9, 2e9, False, False)  # two channels of DDR4-2400; an NVMe disk


def tokens_per_second(plan: MemoryPlan, layers: int, width: Bandwidths) -> tuple[float, float]:
    """Return what decode will reach at least and at most; nothing where the model does not run.

    At worst the context is full and waiting for the disk adds to computing; at best the context is
    empty and both overlap.
    """
    if plan.verdict == "no":
        return 0.0, 0.0
    read = plan.read_bytes_per_token
    slow = (plan.token_bytes + plan.kv_bytes) / (MEMORY_SHARE[0] * width.memory)
    slow += layers * LAYER_SECONDS[0] + read / (DISK_SHARE[0] * width.disk)
    fast = plan.token_bytes / (MEMORY_SHARE[1] * width.memory) + layers * LAYER_SECONDS[1]
    return 1 / slow, 1 / max(fast, read / (DISK_SHARE[1] * width.disk))
