"""Compare policies of the expert pager on recorded routing, at the sizes of Mixtral 8x7B.

    python tools/compare_policies.py [--tokens 1500] [--text FILE] [--model FILE]

Routing comes from a trained model that reads a text token by token (the demo model and its
generated text, if not told otherwise); routing of random weights would be uniform, and every policy
equal. A policy sees which experts each token uses, layer by layer, and keeps as many as fit. The
table gives the hit rates, and for guesses of the next layer's experts how many are right.

What it found decides `experts.eviction` and whether the pager guesses. The demo model, 1507 tokens:

    used by the token before, too: 58.1 % (chance 25.0 %)
    experts of the next layer guessed right: 74.2 %

    hit rate % with experts in memory    25.0 %    37.5 %    50.0 %    66.0 %    80.0 %
    LRU                                    58.3      71.0      85.6      96.2      99.5
    half-life 4 tokens                     60.8      79.0      88.9      96.4      99.5
    half-life 32 tokens                    62.4      81.1      90.4      97.4      99.6
    half-life 256 tokens                   62.6      81.2      90.6      97.5      99.7
    LFU                                    62.8      81.2      90.4      97.6      99.7
    foreknowledge                          71.5      86.4      94.0      98.5      99.8

So a half-life of 32 tokens: as good as any, and soon at home in another text, unlike LFU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cpumix.experts import Budget, ExpertPager
from cpumix.experts.eviction import EvictionPolicy
from cpumix.model import Model
from cpumix.store import ModelFile

SHARES = (0.25, 0.375, 0.5, 0.66, 0.8)  # of the experts that fit in memory
HALF_LIVES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
Key = tuple[int, int]


class Recorder(ExpertPager):
    """A pager that writes down what is asked for."""

    def __init__(self, file: ModelFile, budget: Budget | None, *, low_copies: bool) -> None:
        super().__init__(file, budget, low_copies=low_copies)
        layers = file.config.num_hidden_layers
        self.chosen: list[list[NDArray[np.int32]]] = [[] for _ in range(layers)]
        self.guessed: list[list[list[int]]] = [[] for _ in range(layers)]

    @property
    def wants_prefetch(self) -> bool:
        """Ask for predictions even though everything is in memory."""
        return True

    def lease(self, layer, used, chosen):  # type: ignore[no-untyped-def]
        """Record the experts (1, A) of a token."""
        self.chosen[layer].append(chosen[0].copy())
        return super().lease(layer, used, chosen)

    def prefetch(self, layer, experts, sure=False) -> None:  # type: ignore[no-untyped-def]
        """Record what the next layer's router says too early."""
        self.guessed[layer].append(experts)


def record(model: Model, ids: list[int]) -> tuple[NDArray[np.int32], float]:
    """Return the routing (tokens, layers, A) of a text, and the share of right guesses."""
    recorder = model._engine.pager
    assert isinstance(recorder, Recorder)
    for first in range(0, len(ids), model.context):
        model.restart()
        for token in ids[first : first + model.context]:
            model.advance([token])
    routing = np.array(recorder.chosen).transpose(1, 0, 2)
    guesses = np.array(recorder.guessed[1:]).transpose(1, 0, 2)  # none for the first layer
    right = (guesses[..., :, None] == routing[:, 1:, None, :]).any(axis=-1)
    return routing, float(right.mean())


def simulate(
    routing: NDArray[np.int32],
    capacity: int,
    use: Callable[[int, NDArray[np.int32]], None],
    least: Callable[[Iterable[Key]], Key],
    warm: int,
) -> float:
    """Return the hit rate after `warm` tokens of a policy that notes uses and names who goes."""
    present: set[Key] = set()
    hits = uses = 0
    for t, token in enumerate(routing):
        for layer, experts in enumerate(token):
            use(layer, experts[None])
            wanted = {(layer, int(e)) for e in experts}
            if t >= warm:
                hits, uses = hits + len(wanted & present), uses + len(wanted)
            present |= wanted
            while len(present) > capacity:
                present.remove(least(present - wanted))
    return hits / uses


def lru(shape: tuple[int, int]) -> tuple[Callable[..., None], Callable[..., Key]]:
    """Return the policy that lets go of the longest unused."""
    last, clock = np.zeros(shape, np.int64), [0]

    def use(layer: int, chosen: NDArray[np.int32]) -> None:
        clock[0] += 1
        last[layer, chosen] = clock[0]

    return use, lambda keys: min(keys, key=lambda key: last[key])


def foreknowledge(
    routing: NDArray[np.int32], experts: int
) -> tuple[Callable[..., None], Callable[..., Key]]:
    """Return the best policy there can be: it lets go of whoever is needed last (Belady)."""
    tokens, layers, _ = routing.shape
    following = np.full((tokens + 1, layers, experts), np.iinfo(np.int64).max)
    for t in range(tokens - 1, -1, -1):
        following[t] = following[t + 1]
        for layer in range(layers):
            following[t, layer, routing[t, layer]] = t * layers + layer
    now = [-1]

    def use(layer: int, chosen: NDArray[np.int32]) -> None:
        now[0] += 1

    def least(keys: Iterable[Key]) -> Key:
        t, layer = divmod(now[0], layers)
        return max(keys, key=lambda key: following[(t + 1 if key[0] <= layer else t, *key)])

    return use, least


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", type=Path)
    options = parser.parse_args(arguments)
    with Model(options.model, low_copy="off", make_pager=Recorder) as model:
        if options.text:
            ids = model.tokenizer.encode(options.text.read_text(encoding="utf-8"))[: options.tokens]
        else:
            prompt = model.tokenizer.encode("And they returned to the city")
            most = min(options.tokens, model.context - len(prompt))
            ids = prompt + model.generate_ids(prompt, most, 0.8, seed=0)
        routing, right = record(model, ids)
        shape = model.config.num_hidden_layers, model.config.num_local_experts
    tokens, layers, active = routing.shape
    warm = tokens // 5
    policies = {
        "LRU": lambda: lru(shape),
        **{
            f"half-life {h} tokens": (lambda h=h: _of(EvictionPolicy(*shape, h)))
            for h in HALF_LIVES
        },
        "LFU": lambda: _of(EvictionPolicy(*shape, 1e9)),
        "foreknowledge": lambda: foreknowledge(routing, shape[1]),
    }
    print(f"{tokens} tokens, {layers} layers, {active} of {shape[1]} experts a token")
    repeated = (routing[1:, :, :, None] == routing[:-1, :, None, :]).any(axis=-1).mean()
    chance = active / shape[1]
    print(f"used by the token before, too: {100 * repeated:.1f} % (chance {100 * chance:.1f} %)")
    print(f"experts of the next layer guessed right: {100 * right:.1f} %\n")
    print(
        f"{'hit rate % with experts in memory':28s}" + "".join(f"{100 * s:>8.1f} %" for s in SHARES)
    )
    for name, make in policies.items():
        rates = [
            simulate(routing, max(round(share * shape[0] * shape[1]), 2 * active), *make(), warm)
            for share in SHARES
        ]
        print(f"{name:33s}" + "".join(f"{100 * rate:>10.1f}" for rate in rates))
    return 0


def _of(scores: EvictionPolicy) -> tuple[Callable[..., None], Callable[..., Key]]:
    return scores.use, scores.least


if __name__ == "__main__":
    sys.exit(main())
