"""Measure what many clients get from `cpumix serve`, beside llama-server on the same weights.

    python tools/load.py MODEL --gguf MODEL.gguf --llama-server llama.cpp/build/bin/llama-server

For each number of clients, all begin at once and each asks for `--requests` texts, one after the
other. Printed are the median time to the first token, the median time between tokens and the
tokens per second of all together, which no longer grow where the server is saturated. The last
line says what HTTP costs one stream, compared with `cpumix run`. Servers are asked in turns for
`--rounds` rounds, never two at once; ratios are medians of the rounds' ratios. Each prompt is new,
so that no cache helps. The clients take a little of the processor, too, the same of both servers.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from soaking import WORDS

from cpumix.machine import machine_info, processor_name

PATIENCE = 600.0  # seconds for a server to begin
OURS, THEIRS = "cpumix", "llama-server"


@dataclass(frozen=True)
class Load:
    """What one number of clients got in one round."""

    first: float  # seconds to the first token, median
    between: float  # seconds between two tokens, median of the texts' means
    speed: float  # tokens per second of all clients together


@dataclass(frozen=True)
class Text:
    """What one client saw of one text."""

    first: float
    last: float
    asked: float
    tokens: int


@dataclass(frozen=True)
class Task:
    """What is asked for: words in the prompt, tokens of the text, texts of each client."""

    words: int
    tokens: int
    requests: int


@contextlib.contextmanager
def started(name: str, command: Sequence[str], port: int) -> Iterator[int]:
    """Run a server until the block ends; yield its port when it is ready."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=log, stderr=log, text=True) as process,
    ):
        try:
            end = time.monotonic() + PATIENCE
            while not is_ready(port):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    last = log.read().strip().splitlines()[-1:] or ["no message"]
                    raise click.ClickException(f"{name} did not begin: {last[0]}")
                time.sleep(0.2)
            yield port
        finally:
            process.kill()


def is_ready(port: int) -> bool:
    """Tell whether a server says that it is well."""
    with contextlib.closing(connect(port)) as connection, contextlib.suppress(OSError):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False


def connect(port: int) -> http.client.HTTPConnection:
    """Return a connection that is not open yet."""
    return http.client.HTTPConnection("127.0.0.1", port, timeout=3600)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def prompt_of(words: int, draw: random.Random) -> str:
    """Return words that no other prompt begins with."""
    return f"{draw.randrange(10**9)} " + " ".join(draw.choices(WORDS, k=words))


def write(port: int, task: Task, draw: random.Random) -> Text:
    """Ask for one text, as a stream."""
    body = {
        "model": "any",
        "prompt": prompt_of(task.words, draw),
        "max_tokens": task.tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_prompt": False,
    }
    with contextlib.closing(connect(port)) as connection:
        asked = time.perf_counter()
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        if answer.status != 200:
            told = answer.read().decode("utf-8", "replace")[:200]
            raise click.ClickException(f"a server answered with status {answer.status}: {told}")
        first, last, tokens = 0.0, 0.0, 0
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            now = time.perf_counter()
            first = first or now
            if b'"usage"' in line and (found := json.loads(line[6:]).get("usage")):
                tokens = found["completion_tokens"]
            else:
                last = now
    return Text(first, last, asked, tokens)


def measure(port: int, clients: int, task: Task, seed: int) -> Load:
    """Let so many clients ask at once."""
    texts: list[Text] = []
    faults: list[Exception] = []
    gate = threading.Barrier(clients)

    def talk(number: int) -> None:
        draw = random.Random(1000 * seed + number)
        try:
            gate.wait()
            for _ in range(task.requests):
                texts.append(write(port, task, draw))
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    seconds = max(text.last for text in texts) - min(text.asked for text in texts)
    return Load(
        statistics.median(text.first - text.asked for text in texts),
        statistics.median((text.last - text.first) / max(text.tokens - 1, 1) for text in texts),
        sum(text.tokens for text in texts) / seconds,
    )


def measure_run(model: Path | None, threads: int, task: Task, seed: int) -> float:
    """Return the seconds between two tokens of `cpumix run`."""
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder) / "stats.json"
        prompt = prompt_of(task.words, random.Random(seed))
        words = [sys.executable, "-m", "cpumix", "run", *([str(model)] if model else []), "--raw"]
        words += ["-p", prompt, "-n", str(task.tokens), "--temperature", "0", "--ignore-eos"]
        words += ["--threads", str(threads), "--stats-json", str(stats)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise click.ClickException(f"cpumix run failed: {last[0]}")
        found = json.loads(stats.read_text("utf-8"))
    return float(found["generate_seconds"]) / max(found["generated_tokens"] - 1, 1)


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))


def rows_of(found: dict[tuple[str, int], list[Load]]) -> list[dict[str, Any]]:
    """Return a row for each server and number of clients; ours has ratios, more is better."""
    rows = []
    for (name, clients), loads in found.items():
        row: dict[str, Any] = {"server": name, "clients": clients}
        for field in ("first", "between", "speed"):
            values = [getattr(load, field) for load in loads]
            row[field] = statistics.median(values)
            if name == OURS and (others := found.get((THEIRS, clients))):
                theirs = [getattr(load, field) for load in others]
                better = (values, theirs) if field == "speed" else (theirs, values)
                row[f"{field}_ratio"] = ratio(*better)
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    click.echo("clients  server        first token     between    tokens/s   (times llama-server)")
    for row in rows:
        ratios = [row.get(f"{field}_ratio") for field in ("first", "between", "speed")]
        told = "  ".join(f"{value:.2f}" for value in ratios if value)
        click.echo(
            f"{row['clients']:>7}  {row['server']:<12} {1000 * row['first']:>9.1f} ms "
            f"{1000 * row['between']:>8.2f} ms {row['speed']:>9.1f}   {told}".rstrip()
        )


@click.command(help=__doc__)
@click.argument("model", type=click.Path(exists=True, path_type=Path), required=False)
@click.option("--llama-server", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--gguf", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--clients", "numbers", default="1,4,8,16", show_default=True)
@click.option("--words", type=click.IntRange(1), default=100, show_default=True)
@click.option("--tokens", type=click.IntRange(2), default=64, show_default=True)
@click.option("--requests", type=click.IntRange(1), default=2, show_default=True)
@click.option("--context", type=int, default=1024, show_default=True, help="Of each text.")
@click.option("--threads", type=int, default=machine_info().physical_cores, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    model: Path | None,
    llama_server: Path | None,
    gguf: Path | None,
    numbers: str,
    words: int,
    tokens: int,
    requests: int,
    context: int,
    threads: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Start the servers, ask them in turns, and print a table."""
    if (llama_server is None) != (gguf is None):
        raise click.UsageError("--llama-server: expected it together with --gguf, found one alone.")
    task, counts = Task(words, tokens, requests), [int(number) for number in numbers.split(",")]
    most, ports = max(counts), {OURS: free_port()}
    commands = {OURS: [sys.executable, "-m", "cpumix", "serve", *([str(model)] if model else [])]}
    commands[OURS] += f"--parallel {most} --context {context} --threads {threads}".split()
    if llama_server is not None:
        commands[THEIRS] = [str(llama_server), "-m", str(gguf), "-np", str(most)]
        commands[THEIRS] += f"-c {most * context} -t {threads} -tb {threads}".split()
        ports[THEIRS] = free_port()
    found: dict[tuple[str, int], list[Load]] = {}
    streams: list[float] = []
    alone: list[float] = []
    with contextlib.ExitStack() as stack:
        for name, command in commands.items():
            stack.enter_context(started(name, [*command, "--port", str(ports[name])], ports[name]))
            measure(ports[name], most, Task(words, 8, 1), seed=10**6)  # warm
        for number in range(rounds):
            click.echo(f"round {number + 1} of {rounds}", err=True)
            alone.append(measure_run(model, threads, task, number))
            streams.append(measure(ports[OURS], 1, Task(words, tokens, 1), number + 500).between)
            for clients in counts:
                for name in commands:
                    load = measure(ports[name], clients, task, 100 * number + clients)
                    found.setdefault((name, clients), []).append(load)
    rows, overhead = rows_of(found), ratio(streams, alone) - 1
    if as_json:
        told = {"processor": processor_name(), "threads": threads, "rounds": rounds}
        click.echo(json.dumps({**told, "rows": rows, "http_overhead": overhead}))
        return
    click.echo(f"{processor_name()}, {threads} threads, median of {rounds} rounds in turns")
    show(rows)
    click.echo(f"HTTP, one stream: {100 * overhead:.1f} % more time for a token than cpumix run")


if __name__ == "__main__":
    main()
