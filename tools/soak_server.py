"""Let clients come, go and break off for minutes, and watch a server's texts, memory and numbers.

    python tools/soak_server.py --clients 32 --minutes 10

A `cpumix serve` runs as a process of its own. Clients ask it at random times in every dialect,
streamed or not; some leave in the queue, in the prompt, in the answer, or in the middle of their
own request. Each text that comes to its end must be what `cpumix run` writes. In the end nothing
may be running, waiting or holding blocks, as many texts as ever must fit, no descriptor may be
left, and memory must have stayed below --ram. The exit status is 1 if anything is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from soaking import WORDS, MemoryWatch

from cpumix.machine import machine_info
from cpumix.units import format_size, parse_size

SAMPLE_SECONDS = 0.05
PATIENCE = 120.0  # seconds for a server to become idle
MAX_WAIT = 5.0  # seconds that a client waits that was sent away
LEAVE = 0.3  # the share of requests whose client leaves
IDLE = ("cpumix_num_requests_running", "cpumix_num_requests_waiting", "cpumix_kv_cache_usage_perc")


@dataclass(frozen=True)
class Task:
    """A prompt with its settings, and the text that `cpumix run` writes for it."""

    prompt: str
    tokens: int
    temperature: float
    seed: int
    text: str = ""

    def ways(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (path, body) of each way to ask for the same text."""
        common = {"prompt": self.prompt, "max_tokens": self.tokens, "seed": self.seed}
        common |= {"temperature": self.temperature}
        ways = [("/v1/completions", {**common, "stream": stream}) for stream in (True, False)]
        if not self.temperature:  # TGI's defaults of sampling are others
            parameters = {"max_new_tokens": self.tokens}
            inputs = {"inputs": self.prompt, "parameters": parameters}
            ways += [("/generate", inputs), ("/generate_stream", inputs)]
        return ways


def draw_tasks(count: int, seed: int, model: list[str]) -> list[Task]:
    """Return tasks, some with a beginning in common, each with what `cpumix run` writes."""
    draw = random.Random(seed)
    begin = " ".join(draw.choices(WORDS, k=90))
    tasks = []
    for index in range(count):
        prompt = begin * (index % 2) + " ".join(draw.choices(WORDS, k=draw.randint(1, 60)))
        task = Task(prompt, 8 + 7 * (index % 7), 0.8 * (index % 3 > 0), index)
        options = ["-p", prompt, "-n", str(task.tokens), "--raw"]
        options += ["--temperature", str(task.temperature), "--seed", str(task.seed)]
        command = [sys.executable, "-m", "cpumix", "run", *model, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        text = done.stdout.removesuffix("\n")
        tasks.append(Task(prompt, task.tokens, task.temperature, task.seed, text))
    return tasks


def events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream."""
    for line in answer:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def piece_of(event: dict[str, Any]) -> str:
    """Return the text in an event, or in a whole answer, of any dialect."""
    if "token" in event:
        return str(event["token"]["text"])
    if "generated_text" in event:
        return str(event["generated_text"])
    return str(event["choices"][0]["text"]) if event["choices"] else ""


class Clients:
    """Threads that ask a server, and note what is wrong."""

    def __init__(self, port: int, tasks: list[Task], seed: int) -> None:
        self._port, self._tasks, self._seed = port, tasks, seed
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def talk(self, number: int, until: float) -> None:
        """Ask until it is time to stop."""
        draw = random.Random(1000 * self._seed + number)
        while time.monotonic() < until:
            time.sleep(draw.expovariate(4))
            try:
                self.ask(draw, draw.random() < LEAVE)
            except Exception as error:
                self.faults.append(f"client {number}: {error!r}")

    def ask(self, draw: random.Random, leaves: bool) -> None:
        """Ask for one text; compare it, or leave before its end."""
        task = draw.choice(self._tasks)
        path, body = draw.choice(task.ways())
        streams = path == "/generate_stream" or bool(body.get("stream"))
        sent = json.dumps(body).encode()
        with contextlib.closing(self.connect()) as connection:
            if leaves and draw.random() < 0.2:
                connection.putrequest("POST", path)
                connection.putheader("content-length", str(len(sent)))
                connection.endheaders(sent[: len(sent) // 2])
                return self.count("left in the request")
            connection.request("POST", path, sent)
            if leaves and (not streams or draw.random() < 0.3):
                time.sleep(draw.random() / 5)
                return self.count("left before the answer")
            answer = connection.getresponse()
            if answer.status == 429:
                self.count("sent away")
                after = int(answer.headers["retry-after"])
                if after < 1:
                    self.faults.append("429 without a time")
                return time.sleep(min(after, MAX_WAIT) * draw.random())
            if answer.status != 200:
                raise ValueError(f"{path}: status {answer.status}")
            if leaves:
                for _, _ in zip(range(draw.randint(0, 8)), events(answer), strict=False):
                    pass
                return self.count("left in the answer")
            pieces = [*events(answer)] if streams else [json.loads(answer.read())]
            if "".join(map(piece_of, pieces)) != task.text:
                self.faults.append(f"{path}: seed {task.seed} gave another text than cpumix run")
            return self.count("to the end")

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that is not open yet."""
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=600)

    def count(self, kind: str) -> None:
        """Count how a request ended."""
        self.counts[kind] += 1

    def get(self, path: str) -> str:
        """Return what a path answers."""
        with contextlib.closing(self.connect()) as connection:
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def wait_until_idle(self) -> None:
        """Wait until nothing runs, waits or holds blocks; it is a fault if that does not come."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = self.get("/metrics")
            values = [re.search(rf"^{name} (\S+)$", found, re.MULTILINE) for name in IDLE]
            if all(value and float(value[1]) == 0 for value in values):
                return
            time.sleep(0.1)
        self.faults.append("texts or blocks are left: " + " ".join(v[0] for v in values if v))

    def fill(self, places: int) -> None:
        """Take every place at once; it is a fault if there are fewer than in the beginning."""
        before = self.counts["sent away"]
        ask = [
            threading.Thread(target=self.ask, args=(random.Random(i), False)) for i in range(places)
        ]
        for thread in ask:
            thread.start()
        for thread in ask:
            thread.join()
        if self.counts["sent away"] > before:
            self.faults.append(f"fewer than {places} places are left")


@contextlib.contextmanager
def served(options: argparse.Namespace, log: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a server until the block ends; yield its process and its port."""
    given = ["--port", "0", "--parallel", str(options.parallel), "--context", "512"]
    given += ["--max-queue", str(options.max_queue), "--ram", options.ram, "--log-format", "json"]
    given += ["--threads", str(options.threads)]
    command = [sys.executable, "-m", "cpumix", "serve", *options.model, *given]
    with open(log, "w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        found = re.match(r"http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
        if found is None:
            raise SystemExit(f"cpumix serve did not begin: {log.read_text()}")
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def soak(options: argparse.Namespace, log: Path) -> tuple[Clients, MemoryWatch]:
    """Let the clients talk, and look at what is left."""
    tasks = draw_tasks(options.prompts, options.seed, options.model)
    with served(options, log) as (process, port):
        run, watched = Clients(port, tasks, options.seed), psutil.Process(process.pid)
        run.fill(options.parallel)
        run.wait_until_idle()
        descriptors = watched.num_fds()
        watch = MemoryWatch(lambda: watched.memory_info().rss, SAMPLE_SECONDS)
        watch.start()
        until = time.monotonic() + 60 * options.minutes
        threads = [
            threading.Thread(target=run.talk, args=(i, until)) for i in range(options.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        run.wait_until_idle()
        run.fill(options.parallel + options.max_queue)
        run.wait_until_idle()
        watch.stop()
        time.sleep(0.5)  # the last connections are being closed
        if (left := watched.num_fds()) > descriptors:
            run.faults.append(f"{left - descriptors} descriptors are left")
        process.send_signal(signal.SIGTERM)
        if (status := process.wait(PATIENCE)) != 0:
            run.faults.append(f"cpumix serve ended with status {status}")
    if '"event": "error"' in log.read_text():
        run.faults.append("the server's log tells of errors")
    return run, watch


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", nargs="*", help="default: the demo model")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--max-queue", type=int, default=20)
    parser.add_argument("--threads", type=int, default=machine_info().physical_cores)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--ram", default="256M", help="ceiling of the server's memory")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run, watch = soak(options, Path(folder) / "log")
    most, ceiling = max(watch.samples), parse_size(options.ram)
    if most > ceiling:
        run.faults.append(f"{format_size(most)} of memory, above {format_size(ceiling)}")
    print(", ".join(f"{count} {kind}" for kind, count in run.counts.most_common()))
    print(f"memory: {format_size(most)} at most, late / early {watch.growth():.3f}")
    print("\n".join(dict.fromkeys(run.faults)) or "no fault")
    return bool(run.faults)


if __name__ == "__main__":
    sys.exit(main())
