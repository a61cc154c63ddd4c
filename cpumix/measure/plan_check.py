"""Runs a model for a moment and measures what the plan predicts: behind `cpumix fit --verify`.

    python -m cpumix.measure.plan_check MODEL CONTEXT KV RAM

The run has a process of its own, this module's, so that nothing but the model counts. It fills the
context, writes the last tokens one by one, and prints what it took as JSON.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpumix.errors import BudgetError
from cpumix.fit.probe import find_bandwidths
from cpumix.fit.speed import tokens_per_second
from cpumix.machine import machine_info, mapped_rss_bytes, peak_rss_bytes
from cpumix.memory.limit import find_ceiling
from cpumix.memory.planner import MemoryPlan, make_plan
from cpumix.memory.side_bytes import count_side_bytes
from cpumix.store.reader import ModelFile

USUAL_CONTEXT = 1024  # tokens: all buffers are used, and the router will have picked every expert
WRITTEN = 16
COMMAND = [sys.executable, "-m", "cpumix.measure.plan_check"]


@dataclass(frozen=True)
class PlanCheck:
    """What was predicted and what was measured, under the same names; bytes and tokens/second."""

    plan: MemoryPlan
    predicted: dict[str, Any]
    measured: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as `--json` writes it."""
        plan = {name: getattr(self.plan, name) for name in ("precision", "context", "kv")}
        return {**plan, "predicted": self.predicted, "measured": self.measured}


def verify(
    path: Path, ram: int | None, context: int | None, kv: str = "auto", *, probe: bool = True
) -> PlanCheck:
    """Plan a model file, run it, and return both.

    Raises FormatError for a damaged file, ConfigError for a context or KV cache that the model
    cannot have, BudgetError if it does not fit at all or the run came to an end of its own.
    """
    machine = machine_info()
    with ModelFile(path) as file:
        config, precision = file.config, file.formats
        side = count_side_bytes(file.files, config.vocab_size)
    if context is None:
        context = min(USUAL_CONTEXT, config.max_position_embeddings)
    plan = make_plan(config, precision, context, machine.limit_bytes, kv, side=side)
    bandwidths = find_bandwidths(path, measure=probe)
    total = min(plan.total_bytes, find_ceiling(ram, machine, plan.minimum_bytes).nbytes)
    predicted = {
        "weight_bytes": total - plan.kv_bytes - plan.buffer_bytes,
        "kv_bytes": plan.kv_bytes,
        "buffer_bytes": plan.buffer_bytes,
        "total_bytes": total,
        "tok_s": list(tokens_per_second(plan, config.num_hidden_layers, bandwidths)),
    }
    arguments = [str(path), str(context), plan.kv, str(ram or "")]
    measured = _run(arguments)
    if measured.pop("has_compiled"):  # which takes memory too, but only once
        measured = _run(arguments)
        del measured["has_compiled"]
    return PlanCheck(plan, predicted, measured)


def _run(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        how = f"was ended by signal {-done.returncode}"
        if done.returncode > 0:
            how = "failed: " + done.stderr.strip().splitlines()[-1].partition(": ")[2]
        raise BudgetError(f'verify: the run of "{arguments[0]}" {how}')
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def measure(path: str, context: int, kv: str, ram: str | None) -> dict[str, Any]:
    """Run a model in this process; return what it took."""
    from cpumix.kernels.compile.jit import compiled_files
    from cpumix.loading import load

    before = compiled_files()
    with load(path, context=context, kv=kv, ram=ram) as model:
        written = min(WRITTEN, context - 1)
        # Tokens are numbered by how common they are, more or less: so this is like a text.
        vocabulary, draw = model.config.vocab_size, random.Random(0)
        prompt = [
            min(int(vocabulary ** draw.random()), vocabulary - 1) for _ in range(context - written)
        ]
        for first in range(0, len(prompt), model.prefill_chunk):
            logits = model.advance(prompt[first : first + model.prefill_chunk])
        seconds = []
        for _ in range(written):
            began = time.perf_counter()
            logits = model.advance([int(logits.argmax())])
            seconds.append(time.perf_counter() - began)
        total, weights = peak_rss_bytes(), mapped_rss_bytes(Path(path))
        if weights is None:
            weights = model.file.resident_bytes() or 0
        cache = model.cache_bytes
    return {
        "weight_bytes": weights,
        "kv_bytes": cache,
        "buffer_bytes": total - weights - cache,
        "total_bytes": total,
        "tok_s": 1 / statistics.median(seconds),
        "has_compiled": compiled_files() != before,
    }


if __name__ == "__main__":
    path, context, kv, ram = sys.argv[1:]
    sys.stdout.write(json.dumps(measure(path, int(context), kv, ram or None)))
