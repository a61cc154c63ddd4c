"""Time cpumix and llama.cpp side by side on the same weights, in turns.

    python tools/compare_llama_cpp.py CHECKPOINT --llama-bench build/bin/llama-bench

CHECKPOINT is a Hugging Face folder, such as `tools/make_checkpoint.py` makes. llama.cpp is either a
`llama-bench` with `llama-quantize` beside it, or the installed `llama-cpp-python`. The weights are
written as GGUF, quantized by llama.cpp itself and converted by cpumix; then each engine runs in a
process of its own, one after the other, for `--rounds` rounds. Of three samples each round takes
the median, and of a `llama-bench` that of the better of `-fa 0` and `-fa 1`, for each row by
itself. Printed are medians of the rounds with their spread, the median of the rounds' ratios, which
holds where a machine's speed comes and goes, and how fast memory was in each round.

With `--fork "ik_llama.cpp/build/bin/llama-bench -rtr 1"` a program that takes the same options is
measured on the same files, too; given again, with `-rtr 0`, the better of the two counts. With
`--converter llama.cpp/convert_hf_to_gguf.py` conversion by llama.cpp is timed, too (by this Python,
which must have what that script needs).
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
import time
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import click
import llama_gguf
from side_by_side import head, run, to_json

from cpumix.kernels.simd.limits import Limits
from cpumix.machine import machine_info
from cpumix.measure.bench import DECODE_TOKENS, PROMPT_TOKENS

PAIRS = {"int4": ("Q4_0", "Q4_K_M"), "int8": ("Q8_0",)}
Speeds = dict[tuple[str, int], float]  # tokens per second by kind of work and tokens
WORK = [("decode", 1), *(("prefill", n) for n in PROMPT_TOKENS)]
SAMPLES = 3  # of each kind of work in a round; one alone was up to 12 % low

PYTHON_BENCH = f"""
import json, statistics, sys, time
SAMPLES = {SAMPLES}
from llama_cpp import Llama
path, (threads, decoded, *prompts) = sys.argv[1], map(int, sys.argv[2:])
model = Llama(path, n_ctx=1024, n_batch=512, n_ubatch=512, n_threads=threads,
              n_threads_batch=threads, verbose=False)
def time_once(batches):
    model.reset()
    began = time.perf_counter()
    for batch in batches:
        model.eval(batch)
    return time.perf_counter() - began
def run(batches):
    return statistics.median(time_once(batches) for _ in range(SAMPLES))
token = lambda i: 300 + 97 * i % 30000
run([[token(i) for i in range(512)]]); run([[token(i)] for i in range(4)])
found = [["decode", 1, decoded / run([[token(i)] for i in range(decoded)])]]
found += [["prefill", n, n / run([[token(i) for i in range(n)]])] for n in prompts]
print(json.dumps(found))
"""


class Engine(NamedTuple):
    """llama.cpp as it is there: a `llama-bench`, or None for the Python package."""

    name: str
    bench: Path | None
    options: tuple[tuple[str, ...], ...] = ((),)
    """To run it with, each once; what is faster counts."""

    def quantize(self, source: Path, target: Path, kind: str, threads: int) -> None:
        """Write `source` in one of llama.cpp's types."""
        if self.bench is not None:
            tool = self.bench.with_name("llama-quantize" + self.bench.suffix)
            run([str(tool), str(source), str(target), kind, str(threads)])
            return
        llama_gguf.quantize(source, target, kind, threads)

    def measure(self, model: Path, threads: int) -> Speeds:
        """Run every kind of work once, after a warm-up."""
        if self.bench is None:
            numbers = map(str, (threads, DECODE_TOKENS, *PROMPT_TOKENS))
            rows = json.loads(
                run([sys.executable, "-c", PYTHON_BENCH, str(model), *numbers]).stdout
            )
            return {(work, tokens): speed for work, tokens, speed in rows}
        words = [str(self.bench), "-m", str(model), "-t", str(threads), "-r", str(SAMPLES)]
        words += ["-p", ",".join(map(str, PROMPT_TOKENS)), "-n", str(DECODE_TOKENS)]
        best: Speeds = {}
        for options in self.options:
            for row in json.loads(run([*words, "-fa", "0,1", "-o", "json", *options]).stdout):
                work = ("prefill", row["n_prompt"]) if row["n_prompt"] else ("decode", 1)
                best[work] = max(best.get(work, 0.0), statistics.median(row["samples_ts"]))
        return best


def measure_cpumix(model: Path, threads: int) -> Speeds:
    """Run every kind of work once, after a warm-up."""
    words = [sys.executable, "-m", "cpumix", "bench", str(model), "--rounds", str(SAMPLES)]
    rows = json.loads(run([*words, "--json", "--threads", str(threads)]).stdout)["rows"]
    return {(r["work"], r["tokens"]): r["tok_s"] for r in rows}


def _show(text: str) -> None:
    click.echo(text, err=True)


def _timed(words: list[str]) -> float:
    began = time.perf_counter()
    run(words)
    return time.perf_counter() - began


@click.command(help=__doc__)
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--llama-bench", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--fork", "forks", multiple=True, metavar="COMMAND", help="A fork's llama-bench, with options."
)
@click.option("--converter", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--folder", type=click.Path(path_type=Path), help="For the files made; kept.")
@click.option("--threads", type=int, default=machine_info().physical_cores, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    checkpoint: Path,
    llama_bench: Path | None,
    forks: tuple[str, ...],
    converter: Path | None,
    folder: Path | None,
    threads: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Make what is not there yet, measure, and print a table."""
    if llama_bench is None and find_spec("llama_cpp") is None:
        raise click.UsageError(
            "llama.cpp: expected --llama-bench or an installed llama-cpp-python, found neither. "
            "Give the path of a llama-bench."
        )
    engine = Engine("llama.cpp", llama_bench)
    engines = [engine]
    by_program: dict[str, list[tuple[str, ...]]] = {}
    for fork in forks:
        program, *options = shlex.split(fork)
        by_program.setdefault(program, []).append(tuple(options))
    engines += [
        Engine("fork", Path(program), tuple(options)) for program, options in by_program.items()
    ]
    folder = folder or checkpoint.with_name(checkpoint.name + "-compared")
    folder.mkdir(exist_ok=True)
    made = _make(engine, checkpoint, folder, threads)
    rows, memory = _compare(engines, made, threads, rounds)
    if converter is not None:
        rows += _compare_conversion(engine, checkpoint, converter, folder, threads)
    if as_json:
        click.echo(to_json(threads, memory, rows))
        return
    click.echo(head(threads, rounds, memory))
    for row in rows:
        click.echo(
            f"{row['work']:<8} {row['tokens']:>4}  {row['precision']} {_spread(row, 'cpumix')}   "
            f"{row['engine']:<9} {row['type']:<6} {_spread(row, 'other')} {row['unit']:<6} "
            f"{row['ratio']:5.2f} times"
        )


def _spread(row: dict[str, Any], whose: str) -> str:
    low, high = row[f"{whose}_spread"]
    return f"{row[whose]:8.1f} {f'({low:.1f}-{high:.1f})':<17}"


def _make(engine: Engine, checkpoint: Path, folder: Path, threads: int) -> dict[str, Path]:
    """Return the files to compare, by precision or type; those that are there are used again."""
    made = {precision: folder / f"{precision}.bin" for precision in PAIRS}
    made |= {kind: folder / f"{kind}.gguf" for kinds in PAIRS.values() for kind in kinds}
    plain = folder / "plain.gguf"
    for name, path in made.items():
        if path.exists():
            continue
        _show(f"making {path.name}")
        if name in PAIRS:
            words = [sys.executable, "-m", "cpumix", "convert", str(checkpoint), str(path)]
            run([*words, "--precision", name])
            continue
        if not plain.exists():
            llama_gguf.write(checkpoint, plain)
        engine.quantize(plain, path, name, threads)
    plain.unlink(missing_ok=True)
    return made


def _compare(
    engines: list[Engine], made: dict[str, Path], threads: int, rounds: int
) -> tuple[list[dict[str, Any]], list[float]]:
    """Return a row for each kind of work, type and engine, and memory's speed in each round."""
    found: dict[tuple[str, str], list[Speeds]] = {}
    memory, limits = [], Limits(threads)
    for number in range(rounds):
        memory.append(limits.read_gb_s())
        for name, path in made.items():
            _show(f"round {number + 1} of {rounds}: {name}")
            if name in PAIRS:
                found.setdefault(("cpumix", name), []).append(measure_cpumix(path, threads))
                continue
            for engine in engines:
                speeds = engine.measure(path, threads)
                found.setdefault((engine.name, name), []).append(speeds)
    kinds = [(precision, kind) for precision, some in PAIRS.items() for kind in some]
    rows = []
    for work, (precision, kind), engine in product(WORK, kinds, engines):
        mine = [speeds[work] for speeds in found["cpumix", precision]]
        theirs = [speeds[work] for speeds in found[engine.name, kind]]
        rows.append({
            "work": work[0], "tokens": work[1], "precision": precision, "type": kind,
            "engine": engine.name, "unit": "tok/s",
            "cpumix": statistics.median(mine), "cpumix_spread": (min(mine), max(mine)),
            "other": statistics.median(theirs), "other_spread": (min(theirs), max(theirs)),
            "ratio": statistics.median(a / b for a, b in zip(mine, theirs, strict=True)),
        })  # fmt: skip
    return rows, memory


def _compare_conversion(
    engine: Engine, checkpoint: Path, converter: Path, folder: Path, threads: int
) -> list[dict[str, Any]]:
    ours, plain, theirs = folder / "again.bin", folder / "again.gguf", folder / "again-q.gguf"
    rows: list[dict[str, Any]] = []
    _show("converting with llama.cpp")
    words = [sys.executable, str(converter), str(checkpoint), "--outtype", "bf16"]
    first = _timed([*words, "--outfile", str(plain)])
    for precision, kinds in PAIRS.items():
        words = [sys.executable, "-m", "cpumix", "convert", str(checkpoint), str(ours), "--force"]
        seconds = _timed([*words, "--precision", precision])
        began = time.perf_counter()
        engine.quantize(plain, theirs, kinds[0], threads)
        other = first + time.perf_counter() - began
        rows.append({
            "work": "convert", "tokens": 0, "precision": precision, "type": kinds[0],
            "engine": engine.name, "unit": "s", "cpumix": seconds, "other": other,
            "cpumix_spread": (seconds, seconds), "other_spread": (other, other),
            "ratio": other / seconds,
        })  # fmt: skip
    for path in (ours, plain, theirs):
        path.unlink()
    return rows


if __name__ == "__main__":
    main()
