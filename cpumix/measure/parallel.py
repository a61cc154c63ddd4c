"""How fast several texts are written at once, beside what the machine can do.

A step of n texts reads the dense part once and each expert that any of them uses once, and
multiplies n times what one token multiplies: it can be no faster than the slower of the two.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cpumix.engine.events import Event, Failure, Finish
from cpumix.engine.sequence import Request
from cpumix.model import Model
from cpumix.sampling import Sampler, SamplingParams

from .active import active_weights

if TYPE_CHECKING:
    from cpumix.kernels.simd.limits import Limits

TEXT_TOKENS, WRITTEN_TOKENS = 128, 64  # of each text


@dataclass(frozen=True)
class ParallelRow:
    """So many texts at once: medians over rounds."""

    work: str
    precision: str
    parallel: int
    threads: int
    tok_s: float
    """Of all texts together, while all are written."""
    tok_s_per_stream: float
    experts_read: float
    """Experts that a step reads in each layer."""
    read_gb_s: float | None
    int8_gmac_s: float | None
    share_of_limit: float | None
    """Of the slower of reading and multiplying, measured beside each round."""

    def line(self) -> str:
        """Return the row as text."""
        share = ""
        if self.share_of_limit is not None:
            share = f" = {100 * self.share_of_limit:.0f} % of the limit"
        each = f"{self.tok_s_per_stream:.1f} tok/s each"
        return (
            f"{self.precision} {self.work} {self.parallel:>3}  {self.tok_s:.1f} tok/s, {each}, "
            f"{self.experts_read:.1f} experts a layer{share}"
        )


class _Round(NamedTuple):
    seconds: float  # of a step
    experts: float  # used in a step, all layers together
    read_gb_s: float | None
    int8_gmac_s: float | None


def measure_parallel(
    model: Model, limits: Limits | None, counts: Sequence[int], rounds: int
) -> list[ParallelRow]:
    """Write `counts` texts at once, in turns, and return a row for each count."""
    write = _Writer(model)
    write(max(counts))  # warm up
    found: dict[int, list[_Round]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            before = _measure(limits)
            seconds, experts = write(count)
            after = _measure(limits)
            beside = [_mean(pair) for pair in zip(before, after, strict=True)]
            found[count].append(_Round(seconds, experts, *beside))
    return [_row(model, count, each) for count, each in found.items()]


def _mean(pair: tuple[float | None, float | None]) -> float | None:
    before, after = pair
    return None if before is None or after is None else (before + after) / 2


def _measure(limits: Limits | None) -> tuple[float | None, float | None]:
    return (None, None) if limits is None else (limits.read_gb_s(), limits.int8_gmac_s())


def _row(model: Model, count: int, rounds: list[_Round]) -> ParallelRow:
    active, config = active_weights(model.file), model.config
    expert = model.file.tensors[model.file.expert_name(0, 0)].nbytes
    one = config.num_experts_per_tok * config.num_hidden_layers
    shares = []
    for r in rounds:
        if r.read_gb_s is None or r.int8_gmac_s is None:
            continue
        reading = (active.nbytes + (r.experts - one) * expert) / 1e9 / r.read_gb_s
        multiplying = count * (active.body + active.tail) / 1e9 / r.int8_gmac_s
        shares.append(max(reading, multiplying) / r.seconds)
    seconds = statistics.median(r.seconds for r in rounds)
    return ParallelRow(
        "generate",
        model.file.precision,
        count,
        model.threads,
        tok_s=count / seconds,
        tok_s_per_stream=1 / seconds,
        experts_read=statistics.median(r.experts for r in rounds) / config.num_hidden_layers,
        read_gb_s=_median([r.read_gb_s for r in rounds]),
        int8_gmac_s=_median([r.int8_gmac_s for r in rounds]),
        share_of_limit=_median(shares),
    )


def _median(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return statistics.median(known) if known else None


class _Writer:
    """Writes texts of random prompts, and times the steps in which all of them are written."""

    def __init__(self, model: Model) -> None:
        self._engine, self._vocabulary = model._engine, model.config.vocab_size
        self._random = np.random.default_rng(0)

    def __call__(self, count: int) -> tuple[float, float]:
        """Write `count` texts; return the seconds and the experts used of a step."""
        steps: list[tuple[float, int, int]] = []  # when it ended, rows, experts used so far
        counters = self._engine.pager

        def note(rows: int) -> None:
            used = counters.counters
            steps.append((time.perf_counter(), rows, used.hits + used.misses))

        ended, left, errors = threading.Event(), [count], list[BaseException]()

        def hear(event: Event) -> None:
            if isinstance(event, Failure):
                errors.append(event.error)
            if isinstance(event, Finish | Failure):
                left[0] -= 1
                if not left[0]:
                    ended.set()

        def begin() -> None:
            self._engine.scheduler.prefix.clear()
            params = SamplingParams(temperature=0)
            for _ in range(count):
                ids = self._random.integers(3, self._vocabulary, TEXT_TOKENS).tolist()
                request = Request(ids, WRITTEN_TOKENS, Sampler(params), frozenset())
                self._engine.write(request, hear)

        self._engine.loop.on_step = note
        self._engine.loop.call(begin)  # between two steps, so that all begin with the next
        ended.wait()
        self._engine.loop.on_step = None
        if errors:
            raise errors[0]
        full = [i for i, (_, rows, _) in enumerate(steps) if rows == count]
        # Between two such steps that follow one another nothing else was done.
        pairs = [(i - 1, i) for i in full if i - 1 in full]
        seconds = statistics.median(steps[b][0] - steps[a][0] for a, b in pairs)
        experts = sum(steps[b][2] - steps[a][2] for a, b in pairs) / len(pairs)
        return seconds, experts
