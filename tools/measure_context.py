"""Measure what a long context costs: decode against a short one, and a prompt as it grows.

    python tools/make_big_model.py layers.bin --layers 2
    python tools/measure_context.py layers.bin --kv int8

One model is given a short text and the same model again a long one; then both decode in turns.
Times of the long prompt's batches show what attention adds: their growth is even if each token's
time grows with what comes before it, and with nothing else.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import cpumix
from cpumix.model import Model

DECODED = 8  # tokens in one timing


def read(model: Model, tokens: int) -> list[float]:
    """Take in a text of so many tokens; return the seconds of each batch."""
    vocabulary, seconds = model.config.vocab_size, []
    for first in range(0, tokens, model.prefill_chunk):
        ids = [
            (97 * i + 7) % vocabulary
            for i in range(first, min(first + model.prefill_chunk, tokens))
        ]
        began = time.perf_counter()
        model.advance(ids)
        seconds.append(time.perf_counter() - began)
    return seconds


def decode(model: Model, seed: int) -> float:
    """Return the seconds that a token takes."""
    began = time.perf_counter()
    for i in range(DECODED):
        model.advance([(31 * seed + 97 * i) % model.config.vocab_size])
    return (time.perf_counter() - began) / DECODED


def measure(path: Path, kv: str, short: int, long: int, rounds: int) -> str:
    """Return what was found, as text."""
    context = long + DECODED * (rounds + 1)
    with (
        cpumix.load(path, kv=kv, context=context) as model,
        cpumix.load(path, kv=kv, context=context) as other,
    ):
        lengths = {short: model, long: other}
        prompts = {length: read(each, length) for length, each in lengths.items()}
        times: dict[int, list[float]] = {short: [], long: []}
        for turn in range(rounds + 1):
            for length, each in lengths.items():
                times[length].append(decode(each, turn))
        at = {length: statistics.median(found[1:]) for length, found in times.items()}
        lines = [
            f"decode after {length:>6} tokens: {1e3 * at[length]:.2f} ms a token"
            for length in (short, long)
        ]
        lines.append(f"ratio {at[long] / at[short]:.3f}, KV cache {kv}, {model.threads} threads")
        for i, seconds in enumerate(prompts[long]):
            lines.append(f"prompt from {i * model.prefill_chunk:>6}: {seconds:.3f} s")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--kv", default="auto", help="auto, f16, int8 or f32")
    parser.add_argument("--short", type=int, default=512, help="tokens of the short text")
    parser.add_argument("--long", type=int, default=8192, help="tokens of the long text")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args(arguments)
    print(measure(asked.model, asked.kv, asked.short, asked.long, asked.rounds))


if __name__ == "__main__":
    main()
