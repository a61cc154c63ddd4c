"""Kill a batch at random moments, and compare its output with an undisturbed one's.

    python tools/soak_batch.py --kills 30
    python tools/soak_batch.py --kills 30 --ray

`cpumix batch` is killed (SIGKILL) and begun again, until so many kills have come; then it goes on
to its end. With --ray it is not the command that is killed, but one of its two actors, after a
part is done; the batch is begun again until so many have been killed. The lines are made up; some
of them are at fault. Prints what it does; ends with 1 if one byte differs, or if a finished part
was done again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

WORDS = "And they returned to the city of the king with silver and gold".split()
FAULTS = [
    b"nonsense",
    b"[]",
    b'{"prompt": 3}',
    b'{"custom_id": "x", "url": "/v1/nothing", "body": {}}',
    b'{"custom_id": "t", "url": "/v1/completions", "body": {"prompt": "x", "temperature": -1}}',
]
SHARED = "The words of the preacher, the son of David. " * 5


def make_lines(count: int, rng: random.Random) -> bytes:
    """Return a batch: requests with a beginning in common, plain prompts, and faults."""
    lines = []
    for i in range(count):
        tokens = rng.randint(4, 24)
        if i % 23 == 7:
            lines.append(rng.choice(FAULTS))
            continue
        line: dict[str, object] = {"prompt": " ".join(rng.choices(WORDS, k=6)), "row": i}
        if i % 3:
            body = {"prompt": SHARED + rng.choice(WORDS), "max_tokens": tokens}
            line = {"custom_id": f"r{i}", "url": "/v1/completions", "body": body}
        else:
            line["max_tokens"] = tokens
        lines.append(json.dumps(line).encode())
    return b"\n".join(lines) + b"\n"


def batch_command(source: Path, target: Path, *options: object) -> list[str]:
    """Return the command of a batch in small parts."""
    words = ["batch", source, target, "-c", 256, "-t", 1, "--part-lines", 2, *options]
    return [sys.executable, "-m", "cpumix", *map(str, words)]


def finished(target: Path) -> dict[str, int]:
    """Return the parts that are there, and the files that they are."""
    folder = target.with_name(f"{target.name}.parts")
    found = {}
    for path in folder.glob("*.jsonl"):
        try:
            found[path.name] = path.stat().st_ino
        except FileNotFoundError:  # the batch has ended
            pass
    return found


def run_killed(command: Sequence[str], target: Path, kills: int, rng: random.Random) -> int:
    """Run a command, killing it so many times; return how many finished parts were done again."""
    again, seen = 0, finished(target)
    for number in range(kills):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if rng.random() < 0.8:  # in the middle of work; else while it begins
            while process.poll() is None and len(finished(target)) <= len(seen):
                time.sleep(0.002)
        time.sleep(rng.random() / 4)
        process.kill()
        process.wait()
        found = finished(target)
        joined = target.exists()  # then parts are on their way out
        kept = seen.keys() & found.keys() if joined else seen.keys()
        again += sum(found.get(name) != seen[name] for name in kept) if found else 0
        seen = found
        print(f"kill {number + 1}: {len(seen)} parts are done")
    subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    return again


def run_with_dying_actors(
    source: Path, target: Path, model: Path | None, kills: int, seed: int
) -> int:
    """Answer a batch with two Ray actors, one of which is killed after a part, again and again.

    Returns how many were killed, which may be fewer than asked for: the batch may end before.
    """
    from cpumix.batch.files import open_lines
    from cpumix.batch.job import BatchJob
    from cpumix.batch.parts import PartsFolder
    from cpumix.batch.ray_crew import RayCrew
    from cpumix.batch.relay import Counts
    from cpumix.batch.settings import Settings
    from cpumix.batch.worker import ModelOptions, look_at
    from cpumix.model import DEMO_MODEL

    path = DEMO_MODEL if model is None else model
    found = look_at(path, 256, "auto")
    options = ModelOptions(path, found.fingerprint, 4)
    crew = RayCrew(options, Settings(found.context, found.kv), actors=2, say=print)
    rng, left, last = random.Random(seed), kills, 0

    def kill_one(done: int, counts: Counts) -> None:
        nonlocal left, last
        working = [member.opened for member in crew.members if member.opened and member.parts]
        if left and done > last and len(working) == 2:
            os.kill(rng.choice(working).process, signal.SIGKILL)
            left, last = left - 1, done

    job = BatchJob(open_lines(source, target, None), target, 2)
    try:
        with PartsFolder(target, {}) as parts:
            job.join(parts, job.run(parts, crew, kill_one), force=False)
    finally:
        crew.close()
    print(f"{kills - left} actors were killed")
    return kills - left


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one batch undisturbed and one disturbed; return 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=200)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--ray", action="store_true")
    given = parser.parse_args(arguments)
    rng = random.Random(given.seed)
    model = [] if given.model is None else ["-m", given.model]
    with tempfile.TemporaryDirectory(prefix="cpumix-soak-") as name:
        source, whole, killed = (Path(name) / f"{n}.jsonl" for n in ("in", "whole", "killed"))
        source.write_bytes(make_lines(given.lines, rng))
        command = batch_command(source, whole, "--parallel", 7, *model)
        subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
        again, left, same = 0, given.kills, True
        if not given.ray:
            command = batch_command(source, killed, "--parallel", 4, *model)
            again, left = run_killed(command, killed, given.kills, rng), 0
            same = whole.read_bytes() == killed.read_bytes()
        while left and same:
            left -= run_with_dying_actors(source, killed, given.model, left, given.seed + left)
            same = whole.read_bytes() == killed.read_bytes()
            killed.unlink()
        count = whole.read_bytes().count(b"\n")
    print(f"{count} answers, {'the same' if same else 'DIFFERENT'}; {again} parts done again")
    return 0 if same and count == given.lines and not again else 1


if __name__ == "__main__":
    sys.exit(main())
