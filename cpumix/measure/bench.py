"""Measures a model beside the machine's own limits, in turns, so that a figure explains itself.

Decode is bound by reading the active weights, prefill by multiplying: each is given as a share of
what a plain streaming read, or a loop of byte products in registers, reaches in the same minute.
"experts" are the matrix products of one layer's experts with nothing around them: how much of a
prompt's time the kernels lose, and how much the rest. Medians over alternating rounds, after a
warm-up. The limit is measured before and after every timing: on a shared machine, memory's speed
may double from one second to the next.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cpumix.experts import view
from cpumix.kernels import create_backend
from cpumix.kernels.compile import isa
from cpumix.kernels.operands import MatmulGroup
from cpumix.kernels.rows import Rows
from cpumix.machine import processor_name
from cpumix.model import Model
from cpumix.store import ModelFile
from cpumix.transformer.moe import expert_matmuls, grouped

from .active import active_weights
from .parallel import ParallelRow, measure_parallel
from .start import measure_start

if TYPE_CHECKING:
    from cpumix.kernels.simd.limits import Limits

PROMPT_TOKENS = (16, 64, 128, 512)
DECODE_TOKENS = 32  # in one timing; each goes through other experts
CONTEXT = 1024
EXPERT_ROWS = 128  # what a prompt of 512 gives each of 8 experts, two for a token


@dataclass(frozen=True)
class Row:
    """One kind of work: medians, and the spread of tokens per second."""

    work: str
    precision: str
    tokens: int
    threads: int
    tok_s: float
    tok_s_low: float
    tok_s_high: float
    gb_s: float
    gmac_s: float
    limit: float | None
    """GB/s for decode, else GMAC/s."""
    share_of_limit: float | None
    """The median of the rounds' own."""


@dataclass
class Report:
    """What `cpumix bench` prints."""

    version: str
    processor: str
    isa: str
    threads: int
    rounds: int
    limits: dict[str, float | None] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    parallel: list[ParallelRow] = field(default_factory=list)
    start_seconds: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return all fields, as `--json` writes them; `rows` has those of all kinds."""
        fields = asdict(self)
        fields["rows"] += fields.pop("parallel")
        return fields

    def table(self) -> str:
        """Return the report as text that people can paste into an issue."""
        read, int8 = self.limits["read_gb_s"] or 0.0, self.limits["int8_gmac_s"]
        peak = "" if int8 is None else f", int8 products {int8:.0f} GMAC/s"
        lines = [
            f"cpumix {self.version}, {self.processor}, {self.isa}, {self.threads} threads, "
            f"median of {self.rounds} rounds",
            f"limits: memory {read:.1f} GB/s{peak}",
        ]
        lines += [self._line(row) for row in self.rows]
        lines += [row.line() for row in self.parallel]
        for kind, seconds in self.start_seconds.items():
            lines.append(f"{kind} start to the first token of the demo model: {seconds:.1f} s")
        return "\n".join(lines)

    def _line(self, row: Row) -> str:
        speed, unit = (row.gb_s, "GB/s") if row.work == "decode" else (row.gmac_s, "GMAC/s")
        share = ""
        if row.share_of_limit is not None:
            share = f" = {100 * row.share_of_limit:.0f} % of {row.limit:.1f}"
        spread = f"{row.tok_s:.1f} tok/s ({row.tok_s_low:.1f}-{row.tok_s_high:.1f})"
        return (
            f"{row.precision} {row.work:<7} {row.tokens:>4}  {spread:<28} {speed:.1f} {unit}{share}"
        )


class Experts:
    """The matrix products of as many experts as a token has, EXPERT_ROWS random rows each."""

    def __init__(self, file: ModelFile, threads: int) -> None:
        config, rows = file.config, EXPERT_ROWS
        experts = {e: view(file, (0, e)) for e in range(config.num_experts_per_tok)}
        outer, inner = config.hidden_size, config.intermediate_size
        self.macs = 3 * rows * len(experts) * outer * inner
        self.nbytes = sum(w.tiles.nbytes for expert in experts.values() for w in expert)
        self._backend = create_backend(threads)
        x, h, out = (Rows(rows * len(experts), size) for size in (outer, inner, outer))
        random = np.random.default_rng(0).standard_normal(x.values.shape, np.float32)
        x.values[:, :outer] = random[:, :outer]
        up, down = grouped(
            expert_matmuls(expert, rows * e, rows, x, rows * e, h, out)
            for e, expert in experts.items()
        )
        up.quantize_inputs = True
        for work in (up, down):
            self._backend.multiply(work)
        # The rows are quantized by now, and stay so.
        self._work = MatmulGroup(up.matmuls), MatmulGroup(down.matmuls)

    def run(self) -> None:
        """Multiply."""
        for work in self._work:
            self._backend.multiply(work)


class Timing(NamedTuple):
    """One of several."""

    seconds: float
    limit: float | None
    """The mean of before and after."""


class Bench:
    """Times one loaded model; call `round` as often as wanted, then `rows`."""

    def __init__(
        self, model: Model, limits: Limits | None, prompts: Iterable[int] = PROMPT_TOKENS
    ) -> None:
        self._model, self._limits = model, limits
        self._precision, self._threads = model.file.precision, model.threads
        self._active = active_weights(model.file)
        self._prompts = [n for n in prompts if n <= model.prefill_chunk]
        # Not where experts come and go: they would be read behind the pager's back.
        self._experts = None if model.paged else Experts(model.file, model.threads)
        self._timings: dict[tuple[str, int], list[Timing]] = {}
        self._token = 0

    def warm_up(self) -> None:
        """Compile, and touch the weights: those of the last layer only if all logits are wanted."""
        self._model.logits(self._ids(self._prompts[-1]))
        self._decode()
        if self._experts is not None:
            self._experts.run()

    def round(self) -> None:
        """Time every kind of work once."""
        self._time("decode", 1, self._decode, DECODE_TOKENS)
        for n in self._prompts:
            self._time("prefill", n, partial(self._prefill, n))
        if self._experts is not None:
            self._time("experts", EXPERT_ROWS, self._experts.run)

    def _time(self, work: str, tokens: int, run: Callable[[], None], repeats: int = 1) -> None:
        before = self._limit(work)
        began = time.perf_counter()
        run()
        seconds = (time.perf_counter() - began) / repeats
        after = self._limit(work)
        limit = None if before is None or after is None else (before + after) / 2
        self._timings.setdefault((work, tokens), []).append(Timing(seconds, limit))

    def _limit(self, work: str) -> float | None:
        """Measure what bounds this work: GB/s for decode, else GMAC/s."""
        if self._limits is None:
            return None
        return self._limits.read_gb_s() if work == "decode" else self._limits.int8_gmac_s()

    def _ids(self, n: int) -> list[int]:
        """Return n token ids that have not been used lately, so that routing varies."""
        self._token = (self._token * 31 + 7) % self._model.config.vocab_size
        return [(self._token + 97 * i) % self._model.config.vocab_size for i in range(n)]

    def _prefill(self, n: int) -> None:
        self._model.restart()
        self._model.advance(self._ids(n))

    def _decode(self) -> None:
        """Take in tokens as texts are written: the compute thread goes on by itself."""
        engine, ids = self._model._engine, self._ids(DECODE_TOKENS)

        def take_in() -> None:
            engine.session.begin()
            for token in ids:
                engine.session.advance([token])

        engine.loop.call(take_in)

    def limits(self, work: str) -> list[float]:
        """Return the limits that were measured beside one kind of work."""
        timings = [t for (kind, _), ts in self._timings.items() if kind == work for t in ts]
        return [t.limit for t in timings if t.limit is not None]

    def rows(self) -> list[Row]:
        """Return a row for each kind of work; the model may be closed by then."""
        return [self._row(work, tokens, t) for (work, tokens), t in self._timings.items()]

    def _row(self, work: str, tokens: int, timings: list[Timing]) -> Row:
        active = self._active
        macs, size = tokens * active.body + active.tail, active.nbytes
        if work == "experts" and self._experts is not None:
            macs, size = self._experts.macs, self._experts.nbytes
        bound = (size if work == "decode" else macs) / 1e9
        bounded = work == "decode" or self._precision != "bf16"  # which is multiplied as float32
        beside = [(t.seconds, t.limit) for t in timings if bounded and t.limit is not None]
        seconds = [t.seconds for t in timings]
        middle = statistics.median(seconds)
        return Row(
            work,
            self._precision,
            tokens,
            self._threads,
            tok_s=tokens / middle,
            tok_s_low=tokens / max(seconds),
            tok_s_high=tokens / min(seconds),
            gb_s=size / middle / 1e9,
            gmac_s=macs / middle / 1e9,
            limit=_median([limit for _, limit in beside]),
            share_of_limit=_median([bound / second / limit for second, limit in beside]),
        )


def run(
    models: Iterable[Callable[[], Model]],
    rounds: int,
    start: bool,
    version: str,
    parallel: Sequence[int] = (),
) -> Report:
    """Measure models, opened one after the other, beside the limits.

    `start` adds the time to the first token of a fresh process, without and with compiled kernels
    on disk; `parallel` the speed at which so many texts are written at once.
    """
    report = Report(version, processor_name(), isa.active().name, 0, rounds)
    benches: list[Bench] = []
    for open_model in models:
        with open_model() as model:
            report.threads = model.threads
            limits = _limits(model.threads)
            if parallel:
                report.parallel += measure_parallel(model, limits, parallel, rounds)
                continue
            bench = Bench(model, limits)
            benches.append(bench)
            bench.warm_up()
            for _ in range(rounds):
                bench.round()
    for name, work in (("read_gb_s", "decode"), ("int8_gmac_s", "prefill")):
        beside = [getattr(row, name) for row in report.parallel]
        report.limits[name] = _median([x for b in benches for x in b.limits(work)] + beside)
    report.rows = [row for bench in benches for row in bench.rows()]
    if start:
        report.start_seconds = measure_start()
    return report


def _median(numbers: list[float]) -> float | None:
    return statistics.median(numbers) if numbers else None


def _limits(threads: int) -> Limits | None:
    if isa.active().name == "generic":  # its loops are nobody's limit
        return None
    from cpumix.kernels.simd.limits import Limits

    return Limits(threads)
