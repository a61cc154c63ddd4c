"""Measure what a batch makes of a model's speed, in turns with `bench --parallel`, and on Ray.

    python tools/measure_batch.py MODEL --parallel 8 --threads 2
    python tools/measure_batch.py MODEL --parallel 8 --ray 2

Without MODEL, the small demo model is measured. A batch of made-up lines with short prompts is
answered, each with as many tokens as any other, after a first one that warms up. Its written tokens
per second, reading of prompts, preparing and writing of parts included, are compared with those of
`bench --parallel` at the same width: the share should be 0.9 or more. With --ray N it is answered
by N actors, which divide processors and threads, and compared with the batch of one process: again
0.9 or more. Rounds of both kinds take turns; medians are printed. Needs a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from soaking import WORDS

from cpumix.batch.files.json_lines import JsonLines
from cpumix.batch.here import CrewHere
from cpumix.batch.job import BatchJob, Crew
from cpumix.batch.parts import PartsFolder
from cpumix.batch.settings import Settings
from cpumix.batch.worker import ModelOptions, look_at
from cpumix.measure.parallel import measure_parallel
from cpumix.model import DEMO_MODEL, Model


def run_batch(crew: Crew, folder: Path, lines: int, tokens: int, seed: int) -> float:
    """Answer a batch of other lines for each seed; return its written tokens per second."""
    rng, name = random.Random(seed), f"{seed}-{time.monotonic_ns()}"
    made = [
        {"prompt": " ".join(rng.choices(WORDS, k=8)), "max_tokens": tokens, "ignore_eos": True}
        for _ in range(lines)
    ]
    source = folder / f"{name}.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in made))
    job = BatchJob(JsonLines(source, None), folder / f"{name}.out.jsonl", 32)
    began = time.perf_counter()
    with PartsFolder(job.target, {}) as parts:
        job.join(parts, job.run(parts, crew, lambda done, counts: None), force=False)
    return lines * tokens / (time.perf_counter() - began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a line for each kind of work and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", default=DEMO_MODEL)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--lines", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ray", type=int, metavar="ACTORS")
    given = parser.parse_args(arguments)
    context = 64 + max(given.tokens, 128)
    found = look_at(given.model, context, "auto")
    loading = (
        ModelOptions(given.model, found.fingerprint, given.parallel, threads=given.threads),
        Settings(found.context, found.kv, {"temperature": 0.0}, raw=True),
    )
    crew = CrewHere(*loading)
    with tempfile.TemporaryDirectory(prefix="cpumix-measure-") as name:
        folder = Path(name)

        def batch(crew: Crew, seed: int) -> float:
            return run_batch(crew, folder, given.lines, given.tokens, seed)

        if given.ray is None:
            what = f"bench --parallel {given.parallel}"
            model = Model(
                given.model, threads=given.threads, context=context, parallel=given.parallel
            )

            def other(seed: int) -> float:
                return measure_parallel(model, None, [given.parallel], 1)[0].tok_s

            close = model.close
        else:
            from cpumix.batch.ray_crew import RayCrew

            what = f"a batch of {given.ray} Ray actors"
            actors = RayCrew(*loading, actors=given.ray, say=print)

            def other(seed: int) -> float:
                return batch(actors, seed)

            close = actors.close
        try:
            batch(crew, 0), other(0)  # warm up
            pairs = [(batch(crew, i), other(i)) for i in range(1, given.rounds + 1)]
        finally:
            crew.close()
            close()
    ours, others = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    first, second = ("a batch", what) if given.ray is None else (what, "a batch of one process")
    ratios = [a / b if given.ray is None else b / a for a, b in pairs]
    for work, rate in (("a batch", ours), (what, others)):
        print(f"{work}: {rate:.1f} tok/s")
    print(f"{first} has {statistics.median(ratios):.2f} of the speed of {second}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
