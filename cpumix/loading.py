"""What `cpumix.load` does."""

from __future__ import annotations

from pathlib import Path

from .model import Model


def load(
    path: str | Path | None = None,
    *,
    ram: str | int | None = None,
    threads: int | None = None,
    context: int | None = None,
    kv: str = "auto",
    parallel: int = 1,
    low_copy: str = "auto",
) -> Model:
    """Open a model file; without a path, the demo model that comes with cpumix.

    `ram`: the memory that it may take, "16G" or bytes; else 75 % of this machine's. `threads`: else
    physical cores. `context`: tokens of prompt and answer together; else 4096, or the model's
    maximum. `kv`: how keys and values are kept, "f16", "int8" (half of that), "f32", or "auto":
    float32 for bfloat16 weights, else float16. `parallel`: texts that are written at once, each
    with a context of its own. `low_copy`: whether tokens that hardly need their second expert read
    its 2-bit copy, "auto" (if there is one), "on" or "off".
    Raises FormatError, ConfigError, BudgetError, UnsupportedCpu.
    """
    return Model(
        path,
        ram=ram,
        threads=threads,
        context=context,
        kv=kv,
        parallel=parallel,
        low_copy=low_copy,
    )
