"""Measure what users of one engine wait for, each as a ratio within one run.

    python tools/measure_waits.py TWO_LAYERS.bin --chat-model CHAT.bin

- gap: four texts are being written when a long prompt comes. The longest time between two of
  their tokens beside the median one meanwhile, and the prompt's speed beside that of it alone.
- next turn: a conversation of many tokens goes on. The time to the first token beside that of the
  new tokens alone.
- drafts, if a chat model is named: the same answers with `--draft lookup` and without, in turns; to
  a question that asks for a quotation, and to a free one.

Each is done several times; figures are medians over the rounds. The exit status is 0.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import cpumix
from cpumix.engine.events import Event, Failure, Finish, Token
from cpumix.engine.sequence import Request
from cpumix.model import Model
from cpumix.sampling import Sampler, SamplingParams

WRITERS = 4
QUOTED = (
    "The harbour master keeps a ledger of every ship that enters the bay, its captain, its cargo "
    "and the hour at which it dropped anchor, and reads it aloud each evening to the council."
)
QUOTE = f"Repeat this text word for word, twice: {QUOTED}"
FREE = "Write a short story about a lighthouse keeper who learns to play the violin."


@dataclass
class Waits:
    """Ratios; see the module's docstring."""

    longest_gap: float
    """Of the median gap while the prompt comes."""
    prompt_speed: float
    """Of the same prompt's speed alone."""
    next_turn: float
    """Time to first token, of that of the new tokens alone."""
    quoting: float | None = None
    """Speed with drafts, of that without."""
    free: float | None = None


class Writer:
    """One text of given ids, with the moments at which its tokens came."""

    def __init__(self, model: Model, ids: Sequence[int], tokens: int) -> None:
        self.moments: list[float] = []
        self.began, self._ended = time.perf_counter(), threading.Event()
        self.error: BaseException | None = None
        request = Request(list(ids), tokens, Sampler(SamplingParams(temperature=0)), frozenset())
        model.engine.write(request, self._take)

    def _take(self, event: Event) -> None:
        if isinstance(event, Token):
            self.moments.append(time.perf_counter())
        elif isinstance(event, Failure):
            self.error = event.error
            self._ended.set()
        elif isinstance(event, Finish):
            self._ended.set()

    def wait(self) -> None:
        """Wait for the end."""
        self._ended.wait()
        if self.error is not None:
            raise self.error

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.moments[0] - self.began


def measure_gap(model: Model, prompt: int, seed: int) -> tuple[float, float]:
    """Return the longest gap, and the prompt's speed, as `Waits` has them."""
    draw = np.random.default_rng(seed)

    def ids(count: int) -> list[int]:
        return draw.integers(3, model.config.vocab_size, count).tolist()

    alone = Writer(model, ids(prompt), 1)
    alone.wait()
    writers = [Writer(model, ids(16), 4 * prompt // 16) for _ in range(WRITERS)]
    while any(len(w.moments) < 4 for w in writers):
        time.sleep(0.01)
    guest = Writer(model, ids(prompt), 1)
    guest.wait()
    ended = time.perf_counter()
    gaps: list[float] = []
    for writer in writers:
        inside = [m for m in writer.moments if guest.began <= m <= ended]
        gaps += np.diff(inside).tolist()
    for writer in writers:
        writer.wait()
    return max(gaps) / statistics.median(gaps), alone.first / guest.first


def measure_next_turn(model: Model, said: int, new: int, seed: int) -> float:
    """Return the ratio of times to first token."""
    draw = np.random.default_rng(seed)
    before = draw.integers(3, model.config.vocab_size, said).tolist()
    more = draw.integers(3, model.config.vocab_size, new).tolist()
    Writer(model, before, 1).wait()
    turn = Writer(model, [*before, *more], 1)
    turn.wait()
    alone = Writer(model, more, 1)
    alone.wait()
    return turn.first / alone.first


def measure_draft(model: Model, question: str, tokens: int, rounds: int) -> float:
    """Return the speed with drafts as a multiple of that without; raise if a text differs."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    texts = set()
    for turn in range(2 * rounds + 2):
        draft = bool(turn % 2)
        messages = [{"role": "user", "content": question}]
        answer = model.chat(messages, max_tokens=tokens, draft=draft, temperature=0.0)
        texts.add("".join(answer))
        if turn >= 2:  # the first two warm up
            seconds[draft].append(answer.stats.generate_seconds)
    if len(texts) > 1:
        raise AssertionError(f"drafting changed a text: {texts}")
    return statistics.median(seconds[False]) / statistics.median(seconds[True])


def measure(options: argparse.Namespace) -> Waits:
    """Measure everything that was asked for."""
    gaps, speeds, turns = [], [], []
    with cpumix.load(options.model, parallel=WRITERS + 1, context=4096) as model:
        for seed in range(options.rounds + 1):
            gap, speed = measure_gap(model, options.prompt, seed)
            turn = measure_next_turn(model, options.said, options.new, seed)
            if seed:  # the first round warms up
                gaps.append(gap)
                speeds.append(speed)
                turns.append(turn)
    waits = Waits(*(statistics.median(values) for values in (gaps, speeds, turns)))
    if options.chat_model is not None:
        with cpumix.load(options.chat_model, context=1024) as model:
            waits.quoting = measure_draft(model, QUOTE, options.tokens, options.rounds)
            waits.free = measure_draft(model, FREE, options.tokens, options.rounds)
    return waits


def lines(waits: Waits) -> Iterator[str]:
    """Yield the ratios as text."""
    yield f"longest gap while a prompt comes  {waits.longest_gap:.2f} times the median one"
    yield f"that prompt's speed               {100 * waits.prompt_speed:.0f} % of that alone"
    yield f"next turn, time to first token    {waits.next_turn:.2f} times that of its tokens alone"
    if waits.quoting is not None and waits.free is not None:
        yield f"drafts, an answer that quotes     {waits.quoting:.2f} times as fast"
        yield f"drafts, a free answer             {waits.free:.2f} times as fast"


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="its speed is that of two layers of full width")
    parser.add_argument("--chat-model", type=Path)
    parser.add_argument("--prompt", type=int, default=2000, help="tokens of the long prompt")
    parser.add_argument("--said", type=int, default=3000, help="tokens of the conversation")
    parser.add_argument("--new", type=int, default=64, help="tokens of its next turn")
    parser.add_argument("--tokens", type=int, default=160, help="of an answer with drafts")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    waits = measure(options)
    print(json.dumps(asdict(waits)) if options.json else "\n".join(lines(waits)))


if __name__ == "__main__":
    main()
