r"""Write several texts at once with cpumix and with llama.cpp's llama-batched-bench, in turns.

    python tools/compare_parallel.py MODEL \
        --other "llama.cpp=llama.cpp/build/bin/llama-batched-bench -m Q4_0.gguf" \
        --other "ik_llama.cpp=ik_llama.cpp/build/bin/llama-batched-bench -m Q4_0.gguf -rtr"

Each program runs in a process of its own, one after the other, for `--rounds` rounds. It is told
the lengths of prompts and texts that `cpumix bench --parallel` has, the numbers of texts and of
threads. Of commands with one name, the fastest counts, for each number of texts by itself. Printed
are tokens per second of all texts together, medians of the rounds with their spread, the median of
the rounds' ratios, and how fast memory was in each round. Some versions give all texts the same
tokens, so that they need the same experts: a speed that no real texts reach.
"""

from __future__ import annotations

import json
import re
import shlex
import statistics
import sys
from pathlib import Path

import click
from side_by_side import head, run, to_json

from cpumix.kernels.simd.limits import Limits
from cpumix.machine import machine_info
from cpumix.measure.parallel import TEXT_TOKENS, WRITTEN_TOKENS

Speeds = dict[int, float]  # tokens per second, by the number of texts
OURS = "cpumix"


def measure_cpumix(model: Path, counts: str, threads: int) -> Speeds:
    """Run `cpumix bench` once."""
    words = [sys.executable, "-m", "cpumix", "bench", str(model), "--parallel", counts, "--json"]
    words += ["--rounds", "1", "--threads", str(threads)]
    rows = json.loads(run(words).stdout)["rows"]
    return {row["parallel"]: row["tok_s"] for row in rows if "parallel" in row}


def measure_other(command: list[str], counts: str, threads: int) -> Speeds:
    """Run a llama-batched-bench once; read its table."""
    room = max(map(int, counts.split(","))) * (TEXT_TOKENS + WRITTEN_TOKENS)
    words = [*command, "-c", str(room), "-b", "2048", "-ub", "512", "-t", str(threads)]
    words += ["-npp", str(TEXT_TOKENS), "-ntg", str(WRITTEN_TOKENS), "-npl", counts]
    done = run(words)
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]  # forks write it on stderr
    table = [re.findall(r"[\d.]+", line) for line in lines if line[:1] == "|"]
    found = {int(row[2]): float(row[7]) for row in table if len(row) == 10}
    if not found:
        raise click.ClickException(f"{command[0]}: expected a table of speeds, found none.")
    return found


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--other", "others", multiple=True, required=True, metavar="NAME=COMMAND")
@click.option("--parallel", default="1,2,4,8,16", show_default=True, metavar="N[,N...]")
@click.option("--threads", type=int, default=machine_info().physical_cores, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    model: Path, others: tuple[str, ...], parallel: str, threads: int, rounds: int, as_json: bool
) -> None:
    """Measure in turns, and print a table."""
    if bad := next((other for other in others if "=" not in other), None):
        raise click.UsageError(f'--other: expected NAME=COMMAND, found "{bad}".')
    found: dict[str, list[Speeds]] = {}
    memory, limits = [], Limits(threads)
    for number in range(rounds):
        memory.append(limits.read_gb_s())
        click.echo(f"round {number + 1} of {rounds}", err=True)
        this: dict[str, Speeds] = {OURS: measure_cpumix(model, parallel, threads)}
        for other in others:
            name, _, command = other.partition("=")
            best = this.setdefault(name, {})
            for count, speed in measure_other(shlex.split(command), parallel, threads).items():
                best[count] = max(best.get(count, 0.0), speed)
        for name, speeds in this.items():
            found.setdefault(name, []).append(speeds)
    rows = [
        _row(name, count, [speeds[count] for speeds in each], [s[count] for s in found[OURS]])
        for name, each in found.items()
        for count in each[0]
    ]
    if as_json:
        click.echo(to_json(threads, memory, rows))
        return
    click.echo(head(threads, rounds, memory))
    for row in rows:
        told = "" if row["engine"] == OURS else f"   cpumix has {row['ratio']:.2f} of it"
        speed = f"{row['tok_s']:7.1f} tok/s ({row['low']:.1f}-{row['high']:.1f})"
        click.echo(f"{row['engine']:<13} {row['parallel']:>3}  {speed}{told}")


def _row(engine: str, count: int, speeds: list[float], ours: list[float]) -> dict[str, object]:
    return {
        "engine": engine,
        "parallel": count,
        "tok_s": statistics.median(speeds),
        "low": min(speeds),
        "high": max(speeds),
        "ratio": statistics.median(a / b for a, b in zip(ours, speeds, strict=True)),
    }


if __name__ == "__main__":
    main()
