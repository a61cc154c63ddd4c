"""Measure a model larger than its memory beside the disk that it comes from.

    python tools/make_big_model.py big.bin --layers 8
    python tools/bench_paging.py big.bin [--share 0.5 0.66] [--tokens 48] [--prompt 512]
    python tools/bench_paging.py big.bin --ram 16G --tokens 100
    python tools/bench_paging.py big.bin --llama-bench llama-bench same-shape.gguf

Each run is a process of its own in a control group that limits its memory (Linux, as root;
elsewhere without). `--share` sets the memory so that this share of the experts fits. The disk is
measured in turns with the model, by direct reads of whole experts from the same file; the disk's
share is the time it would take to read what missed, over the time that the tokens took. Figures are
medians over turns of 8 tokens. The process's resident memory is sampled every 50 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from control_group import MemoryGroup, memory_group

import cpumix
from cpumix.experts.budget import ARRIVAL_MARGIN
from cpumix.experts.madvise import HUGEPAGE
from cpumix.experts.readers import PIECE, THREADS
from cpumix.machine import machine_info
from cpumix.memory.planner import make_plan
from cpumix.model import Model
from cpumix.store import ModelFile
from cpumix.units import format_size, parse_size

CONTEXT = 1024
TURN = 8  # tokens between two measurements of the disk
DISK_BYTES = 512 << 20  # of one measurement
WARM = 16  # tokens before the first one that counts: by then the memory is full
SLACK = 1.03  # of the control group over the ceiling: page tables, and the files of Python itself
SAMPLE_SECONDS = 0.05


class Disk:
    """Reads experts past the page cache, as many requests at once as the pager has."""

    def __init__(self, file: ModelFile) -> None:
        self._experts = [t for t in file.tensors.values() if t.spec.expert is not None]
        self._fd = os.open(file.path, os.O_RDONLY | os.O_DIRECT)
        self._buffers = threading.local()
        self._random = np.random.default_rng(7)

    def gb_s(self) -> float:
        """Return the bytes a second, in 1e9."""
        pieces = []
        while len(pieces) * PIECE < DISK_BYTES:
            expert = self._experts[self._random.integers(len(self._experts))]
            last = expert.offset + expert.nbytes - PIECE
            pieces += list(range(expert.offset, last, PIECE))
        began = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as threads:
            done = sum(threads.map(self._read, pieces))
        return done / (time.perf_counter() - began) / 1e9

    def _read(self, offset: int) -> int:
        if not hasattr(self._buffers, "own"):
            self._buffers.own = mmap.mmap(-1, PIECE)  # direct reads want whole pages
            with contextlib.suppress(OSError):  # large ones: requests to the disk list few pages
                self._buffers.own.madvise(HUGEPAGE)
        return os.preadv(self._fd, [self._buffers.own], offset)


def drop_cache(path: Path) -> None:
    """Let the file leave the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Work:
    """The model's tokens in turns with the disk."""

    def __init__(self, model: Model) -> None:
        self._model, self._disk = model, Disk(model.file)
        self._random = np.random.default_rng(3)
        self._guessed_hits = 0  # uses that a guess, read since the lease before, has made hits
        settle = model._engine.pager._settle_guesses

        def count(lease: Any) -> None:
            guessed = model._engine.pager._prefetched
            self._guessed_hits += sum((lease.layer, e) in guessed for e in lease.hits)
            settle(lease)

        model._engine.pager._settle_guesses = count  # type: ignore[method-assign]

    def _ids(self, count: int) -> list[int]:
        ids: list[int] = self._random.integers(3, self._model.config.vocab_size, count).tolist()
        return ids

    def first_token(self) -> dict[str, Any]:
        """Read a cold file's first token, and count the experts that came into memory."""
        file = self._model.file
        self._model.advance(self._ids(1))
        region = self._model._engine.pager.region
        experts = [t for t in file.tensors.values() if t.spec.expert is not None]
        found = sum(t.nbytes - region.missing(t.offset, t.nbytes) for t in experts)
        return {"experts": found / sum(t.nbytes for t in experts)}

    def measure(self, tokens: int, prompt: bool) -> dict[str, Any]:
        """Return what so many tokens took: the pager's counters, seconds, and the disk's speed."""
        pager, turns = self._model._engine.pager, []
        before, disk_before = pager.counters, self._disk.gb_s()
        for first in range(0, tokens, tokens if prompt else TURN):
            count = tokens if prompt else min(TURN, tokens - first)
            if prompt or self._model._engine.position + count > self._model.context:
                self._model.restart()
            ids, misses, self._guessed_hits = self._ids(count), pager.counters.misses, 0
            began = time.perf_counter()
            for batch in [ids] if prompt else [[i] for i in ids]:
                self._model.advance(batch)
            seconds = time.perf_counter() - began
            missed = pager.counters.misses - misses + self._guessed_hits
            disk_after = self._disk.gb_s()
            disk, disk_before = (disk_before + disk_after) / 2, disk_after
            turns.append((count / seconds, disk, missed * self._expert_bytes, seconds))
        counted = pager.counters.since(before)
        return {
            "tokens": tokens,
            "seconds": sum(seconds for *_, seconds in turns),
            "tok_s": statistics.median(speed for speed, *_ in turns),
            "disk_gb_s": statistics.median(disk for _, disk, *_ in turns),
            "disk_share": statistics.median(
                missed / disk / 1e9 / seconds for _, disk, missed, seconds in turns
            ),
            "missed_bytes": sum(missed for *_, missed, _ in turns),
            "hit_rate": counted.hit_rate,
            **counted.to_dict(),
        }

    @property
    def _expert_bytes(self) -> int:
        return self._model.file.tensors["blk.0.expert.0"].nbytes


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Do one run; this is the process that is watched."""
    ram, tokens, prompt = options.work or None, options.tokens, options.prompt
    with cpumix.load(options.model, ram=ram, context=CONTEXT) as model:
        model._engine.pager._predict = not options.no_guesses
        work = Work(model)
        result: dict[str, Any] = {"first token": work.first_token()}
        if ram is None:  # all resident: what computing alone takes
            model.advance(list(range(3, 515)))
        if prompt:
            work.measure(prompt, True)
            result["prompt"] = work.measure(prompt, True)
        if tokens:
            work.measure(WARM, False)
            result["decode"] = work.measure(tokens, False)
        return result


def watch(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Return what a process printed, and the most resident memory it had at a sample."""
    status, most = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            for line in status.read_text().splitlines():
                if line.startswith("VmRSS:"):
                    most = max(most, int(line.split()[1]) * 1024)
        time.sleep(SAMPLE_SECONDS)
    assert process.stdout is not None
    if process.returncode != 0:
        raise SystemExit(f"a run ended with status {process.returncode}")
    return process.stdout.read(), most


@contextlib.contextmanager
def limited(nbytes: int | None):  # type: ignore[no-untyped-def]
    """Yield what starts programs, in a control group of so many bytes if there can be one."""
    if nbytes is not None:
        with contextlib.suppress(OSError), memory_group(nbytes) as group:
            yield group
            return
        print("no control group can be made here: the limit is --ram alone", file=sys.stderr)
    yield None


def start(group: MemoryGroup | None, command: list[str]) -> subprocess.Popen[str]:
    """Start a program, in a group if there is one."""
    if group is not None:
        return group.start(command)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(options: argparse.Namespace, ram: int | None) -> dict[str, Any]:
    """Run the model once in so much memory, all if None, and watch it."""
    drop_cache(options.model)
    words = [__file__, options.model, "--tokens", options.tokens, "--prompt", options.prompt]
    words += ["--work", ram or 0, *(["--no-guesses"] if options.no_guesses else [])]
    with limited(ram and int(ram * SLACK)) as group:
        output, most = watch(start(group, [sys.executable, *map(str, words)]))
        peak = group.peak_bytes if group else 0
    return {**json.loads(output), "ram": ram, "rss": most, "group": peak}


def run_llama(program: str, gguf: Path, ram: int, tokens: int) -> float:
    """Return llama.cpp's tokens a second of decode in a group of the same size."""
    drop_cache(gguf)
    words = [program, "-m", str(gguf), "-t", str(machine_info().physical_cores), "-p", "0"]
    words += ["-n", str(tokens), "-r", "1", "--repack", "0", "-o", "json"]
    with limited(int(ram * SLACK)) as group:
        output, _ = watch(start(group, words))
    return float(json.loads(output)[0]["avg_ts"])


def show(result: dict[str, Any], expert_bytes: int, llama: float | None) -> None:
    """Print what one run found."""
    ram = result["ram"]
    if ram is None:
        print(f"all resident: {format_size(result['rss'])} resident at most")
    else:
        over = "never above" if result["rss"] <= ram else "ABOVE"
        print(
            f"{format_size(ram)}: {format_size(result['rss'])} resident at most, {over} the ceiling"
            f"; {format_size(result['group'])} in the control group, page cache included"
        )
    first = result["first token"]["experts"]
    print(f"  first token: {100 * first:.2f} % of the experts in memory (2 of 8: 25 %)")
    for name in ("prompt", "decode"):
        if r := result.get(name):
            print(
                f"  {name} of {r['tokens']}: {r['tok_s']:.2f} tok/s, hit rate"
                f" {100 * r['hit_rate']:.1f} %,"
                f" {100 * r['peak_resident_bytes'] / expert_bytes:.0f} % of the experts resident,"
                f" {r['bytes_read'] / 1e9:.2f} GB read for {r['missed_bytes'] / 1e9:.2f} GB missed;"
                f" disk {r['disk_gb_s']:.2f} GB/s, its share {100 * r['disk_share']:.0f} %"
                f" ({r['seconds']:.2f} s in all, reading {r['read_seconds']:.2f} s, waiting"
                f" {r['wait_seconds']:.2f} s); guesses {r['predicted_used']} of {r['predicted']}"
            )
    if llama is not None:
        own = result["decode"]["tok_s"]
        print(f"  llama.cpp in the same group: {llama:.2f} tok/s; ours is {own / llama:.2f} times")


def main(arguments: list[str] | None = None) -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--share", type=float, nargs="*", default=[0.5, 0.66])
    parser.add_argument("--ram", type=parse_size, help="Use so much memory instead of shares.")
    parser.add_argument("--tokens", type=int, default=48, help="Decoded tokens; 0 for none.")
    parser.add_argument("--prompt", type=int, default=512, help="Tokens of a prompt; 0 for none.")
    parser.add_argument("--resident", action="store_true", help="Run with all resident, too.")
    parser.add_argument("--llama-bench", nargs=2, metavar=("PROGRAM", "GGUF"))
    parser.add_argument("--no-guesses", action="store_true", help="Read nothing ahead.")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work is not None:
        print(json.dumps(work(options)))
        return 0
    with ModelFile(options.model) as file:
        plan = make_plan(file.config, file.formats, CONTEXT, machine_info().ram_bytes)
    fixed = plan.fixed_bytes + ARRIVAL_MARGIN
    rams = (
        [options.ram]
        if options.ram
        else [fixed + int(s * plan.expert_bytes) for s in options.share]
    )
    for ram in [*([None] if options.resident else []), *rams]:
        result = run(options, ram)
        llama = None
        if options.llama_bench and ram:
            program, gguf = options.llama_bench
            llama = run_llama(program, Path(gguf), ram, options.tokens)
        show(result, plan.expert_bytes, llama)
    return 0


if __name__ == "__main__":
    sys.exit(main())
