"""Damages config.json files, and the configs in model files, and expects a sentence of each.

    python tools/fuzz/configs.py --cases 100000 [--seed 1]

A case is the config of a well-known model with a few fields changed, drawn from its number: a
failure is repeated with --seed NUMBER --cases 1. It fails if anything but a ConfigError of one
short line is raised, if what was read cannot be written and read back, planned, and turned into
frequencies of RoPE that are numbers, or, by hand, if it takes more than `SECONDS` of the processor.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from cpumix.config import FAMILIES, ModelConfig
from cpumix.errors import ConfigError
from cpumix.memory.planner import default_context, make_plan
from cpumix.transformer.rope import frequencies

DATA = Path(__file__).parents[2] / "tests" / "data" / "public-configs.json"
CONFIGS: list[dict[str, Any]] = list(json.loads(DATA.read_text()).values())
SECONDS = 2.0
MOST_CHARACTERS = 700
STRINGS = ("", "\0", "\ud800", "x" * 400, "silu", "linear", "yarn", "dynamic", "llama3", "a\nb")
NUMBERS = (0, 1, -1, 2, 3, 2.0, 0.5, 1e-40, 1e39, 1e308, 5e-324, 2**31, 2**63, 10**400, True, False)
FLOATS = (float("nan"), float("inf"), -float("inf"), -0.0)
NAMES = (
    "rope_type type factor low_freq_factor high_freq_factor original_max_position_embeddings "
    "beta_fast beta_slow mscale mscale_all_dim attention_factor truncate rope_theta kind requires "
    "qk_norm qkv_bias output_bias norm_topk_prob eos_token_ids architecture"
).split()
Random = np.random.Generator


def value(random: Random, depth: int = 0) -> Any:
    """Return a random value of JSON, seldom a deep or long one."""
    kinds = [*STRINGS, *NUMBERS, *FLOATS, None]
    pick = int(random.integers(len(kinds) + 4))
    if pick < len(kinds):
        return kinds[pick]
    if depth > 2:
        return deep(int(random.integers(50, 2000)))
    if pick % 2:
        return [value(random, depth + 1) for _ in range(int(random.integers(4)))]
    return {name(random): value(random, depth + 1) for _ in range(int(random.integers(5)))}


def deep(levels: int) -> Any:
    """Return a list in a list in a list."""
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def name(random: Random) -> str:
    """Return the name of a field, known or not."""
    known = [*NAMES, *STRINGS, *CONFIGS[int(random.integers(len(CONFIGS)))]]
    return known[int(random.integers(len(known)))]


def damaged(fields: dict[str, Any], random: Random) -> dict[str, Any]:
    """Return a config with a few fields changed, added or left out."""
    made = dict(fields)
    for _ in range(int(random.integers(1, 4))):
        field = name(random)
        if random.random() < 0.2:
            made.pop(field, None)
        elif isinstance(made.get(field), dict) and random.random() < 0.8:
            made[field] = {**made[field], name(random): value(random)}
        else:
            made[field] = value(random)
    return made


def written(fields: dict[str, Any]) -> str:
    """Return JSON; Python's own writer ends where a value is nested too deep."""
    try:
        return json.dumps(fields)
    except (RecursionError, ValueError):
        return "{" + '"x":[' * 3000


def one_case(number: int) -> bool:
    """Read one damaged config; return whether it was taken. Raises AssertionError for a fault."""
    random = np.random.default_rng(number)
    fields = CONFIGS[int(random.integers(len(CONFIGS)))]
    try:
        if random.random() < 0.7:
            config = ModelConfig.from_huggingface(damaged(fields, random), "config.json")
        else:
            stored = json.loads(ModelConfig.from_huggingface(fields, "config.json").to_json())
            config = ModelConfig.from_json(written(damaged(stored, random)))
    except ConfigError as e:
        text = str(e)
        assert len(text) < MOST_CHARACTERS and text.isprintable(), (number, text)
        return False
    assert config.architecture in FAMILIES, number
    assert ModelConfig.from_json(config.to_json()) == config, number
    make_plan(config, "int4", default_context(config), 1 << 36)
    if config.head_dim < 1 << 16:
        with np.errstate(all="ignore"):
            turns = frequencies(config, config.context_limit).inv_freq
        assert np.isfinite(turns).all() and (turns >= 0).all(), (number, config)
    return True


def main() -> int:
    """Run the cases; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    taken = failed = 0
    for number in range(options.seed, options.seed + options.cases):
        began = time.thread_time()
        try:
            taken += one_case(number)
            assert time.thread_time() - began < SECONDS, "too slow"
        except Exception as e:
            failed += 1
            print(f"{number}: {type(e).__name__}: {str(e)[:300]}")
    print(f"{options.cases} configs: {taken} taken, {failed} failed, the others refused")
    return failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))
