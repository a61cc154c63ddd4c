"""Let texts come and go for minutes, and watch memory, blocks and texts.

    python tools/soak_engine.py MODEL --minutes 10 --parallel 16 --ram 4G

Prompts, lengths, breaks and pauses are drawn from a seed. Each text that comes to its end must
equal the one that the same prompt gave before. Resident memory is sampled every 20 ms: the most of
it is compared with the ceiling, and its median in the last quarter with that in the second.
The exit status is 1 if a text differs, a block is left, or memory was above the ceiling.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from pathlib import Path

from soaking import WORDS, MemoryWatch

import cpumix
from cpumix.machine import rss_bytes
from cpumix.model import Model
from cpumix.units import format_size, parse_size

SAMPLE_SECONDS = 0.02


class Soak:
    """Threads that ask for texts, break some off, and compare the others."""

    def __init__(self, model: Model, prompts: int, seed: int) -> None:
        draw = random.Random(seed)
        begin = " ".join(draw.choices(WORDS, k=90))
        self._model, self._seed = model, seed
        self._prompts = [
            begin * (i % 2) + " ".join(draw.choices(WORDS, k=draw.randint(1, 60)))
            for i in range(prompts)
        ]
        self._found: dict[int, str] = {}
        self.whole = self.broken = 0
        self.faults: list[str] = []

    def talk(self, number: int, until: float) -> None:
        """Ask for texts until it is time to stop."""
        draw = random.Random(1000 * self._seed + number)
        while time.monotonic() < until:
            index = draw.randrange(len(self._prompts))
            text = self._model.generate(
                self._prompts[index], max_tokens=8 + 5 * (index % 9), seed=index, temperature=0.8
            )
            pieces = iter(text)
            if draw.random() < 0.3:
                for _ in range(draw.randint(0, 5)):
                    next(pieces, None)
                pieces.close()  # type: ignore[attr-defined]
                self.broken += 1
            else:
                said = "".join(pieces)
                if self._found.setdefault(index, said) != said:
                    self.faults.append(f"prompt {index} gave another text than before")
                self.whole += 1
            time.sleep(draw.random() / 50)


def soak(model: Model, minutes: float, texts: int, seed: int) -> tuple[Soak, MemoryWatch]:
    """Let `texts` threads ask for texts."""
    run, memory = Soak(model, 40, seed), MemoryWatch(rss_bytes, SAMPLE_SECONDS)
    until = time.monotonic() + 60 * minutes
    threads = [threading.Thread(target=run.talk, args=(i, until)) for i in range(texts)]
    memory.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    memory.stop()
    engine = model._engine
    engine.loop.call(lambda: None)
    if engine.pool.held or engine.pool.reserved or engine.scheduler.jobs:
        run.faults.append(f"{engine.pool.held} blocks are left")
    return run, memory


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?", help="default: the demo model")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--ram", help="ceiling, such as 4G; default: 75 %% of the memory")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with cpumix.load(
        options.model, ram=options.ram, context=options.context, parallel=options.parallel
    ) as model:
        run, memory = soak(model, options.minutes, options.parallel, options.seed)
    most, ceiling = max(memory.samples), parse_size(options.ram) if options.ram else None
    if ceiling is not None and most > ceiling:
        run.faults.append(f"{format_size(most)} of memory, above {format_size(ceiling)}")
    print(f"{run.whole} texts to their end, {run.broken} broken off")
    print(f"memory: {format_size(most)} at most, late / early {memory.growth():.3f}")
    print("\n".join(run.faults) or "no fault")
    return bool(run.faults)


if __name__ == "__main__":
    sys.exit(main())
