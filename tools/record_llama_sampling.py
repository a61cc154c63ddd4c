"""Record what llama.cpp's samplers keep, for tests/sampling/test_llama_cpp.py.

    python tools/record_llama_sampling.py tests/data/sampling/llama_cpp.json

Needs llama-cpp-python, which the tests themselves do without.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

SPREADS = [0.5, 2, 5]  # standard deviations of the logits
SIZE = 60  # tokens in the vocabulary
WINDOW = 25
f = ctypes.c_float


def dry(multiplier: float, base: float, allowed: int) -> Any:
    """Return a DRY sampler without sequence breakers, which would need a vocabulary."""
    none = ctypes.cast(None, ctypes.POINTER(ctypes.c_char_p))
    return llama_cpp.llama_sampler_init_dry(None, f(multiplier), f(base), allowed, WINDOW, none, 0)


CASES: list[tuple[dict[str, Any], list[Callable[[], Any]]]] = [  # our parameters, their samplers
    ({"top_k": 7}, [lambda: llama_cpp.llama_sampler_init_top_k(7)]),
    ({"top_p": 0.35}, [lambda: llama_cpp.llama_sampler_init_top_p(f(0.35), 0)]),
    ({"top_p": 0.92}, [lambda: llama_cpp.llama_sampler_init_top_p(f(0.92), 0)]),
    ({"min_p": 0.05}, [lambda: llama_cpp.llama_sampler_init_min_p(f(0.05), 0)]),
    ({"min_p": 0.4}, [lambda: llama_cpp.llama_sampler_init_min_p(f(0.4), 0)]),
    ({"typical_p": 0.2}, [lambda: llama_cpp.llama_sampler_init_typical(f(0.2), 0)]),
    ({"typical_p": 0.9}, [lambda: llama_cpp.llama_sampler_init_typical(f(0.9), 0)]),
    ({"top_n_sigma": 1.0}, [lambda: llama_cpp.llama_sampler_init_top_n_sigma(f(1))]),
    ({"top_n_sigma": 2.5}, [lambda: llama_cpp.llama_sampler_init_top_n_sigma(f(2.5))]),
    (
        {"xtc_probability": 1.0, "xtc_threshold": 0.03},
        [lambda: llama_cpp.llama_sampler_init_xtc(f(1), f(0.03), 0, 0)],
    ),
    ({"temperature": 0.6}, [lambda: llama_cpp.llama_sampler_init_temp(f(0.6))]),
    ({"temperature": 0.0}, [lambda: llama_cpp.llama_sampler_init_temp(f(0))]),
    (
        {"temperature": 0.9, "dynatemp_range": 0.5, "dynatemp_exponent": 1.4},
        [lambda: llama_cpp.llama_sampler_init_temp_ext(f(0.9), f(0.5), f(1.4))],
    ),
    (
        {
            "repeat_penalty": 1.3,
            "frequency_penalty": 0.2,
            "presence_penalty": 0.4,
            "repeat_last_n": WINDOW,
        },
        [lambda: llama_cpp.llama_sampler_init_penalties(SIZE, WINDOW, f(1.3), f(0.2), f(0.4))],
    ),
    (
        {"dry_multiplier": 0.8, "dry_base": 1.75, "dry_penalty_last_n": WINDOW},
        [lambda: dry(0.8, 1.75, 2)],
    ),
    (
        {
            "dry_multiplier": 2.0,
            "dry_base": 1.2,
            "dry_allowed_length": 1,
            "dry_penalty_last_n": WINDOW,
        },
        [lambda: dry(2, 1.2, 1)],
    ),
    (
        {"mirostat": 2, "mirostat_tau": 1.7, "temperature": 0.8},
        [
            lambda: llama_cpp.llama_sampler_init_temp(f(0.8)),
            lambda: llama_cpp.llama_sampler_init_mirostat_v2(0, f(1.7), f(0.1)),
        ],
    ),
    (  # the defaults, in their order
        {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
        [
            lambda: llama_cpp.llama_sampler_init_top_k(40),
            lambda: llama_cpp.llama_sampler_init_top_p(f(0.95), 0),
            lambda: llama_cpp.llama_sampler_init_min_p(f(0.05), 0),
            lambda: llama_cpp.llama_sampler_init_temp(f(0.8)),
        ],
    ),
]


def run(samplers: list[Any], text: list[int], logits: np.ndarray) -> tuple[list[int], list[float]]:
    """Return the tokens that are left, and their log-probabilities."""
    data = (llama_cpp.llama_token_data * len(logits))()
    for token, logit in enumerate(logits):
        data[token] = llama_cpp.llama_token_data(token, float(logit), 0.0)
    pointer = ctypes.cast(data, ctypes.POINTER(llama_cpp.llama_token_data))
    array = llama_cpp.llama_token_data_array(pointer, len(logits), -1, False)
    for sampler in samplers:
        for token in text:
            llama_cpp.llama_sampler_accept(sampler, token)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
        llama_cpp.llama_sampler_free(sampler)
    left = {array.data[i].id: array.data[i].logit for i in range(array.size)}
    left = {token: left[token] for token in sorted(left) if left[token] > -np.inf}
    values = np.array([*left.values()])
    log_p = values - values.max() - np.log(np.exp(values - values.max()).sum())
    return [*left], [round(float(x), 5) for x in log_p]


def main(path: Path) -> None:
    """Run every case on each kind of logits; write inputs and what was kept."""
    random = np.random.default_rng(1)
    text = random.integers(0, 4, 40).tolist()  # full of repetitions
    rows = [random.normal(0, spread, SIZE).astype(np.float32).round(4) for spread in SPREADS]
    cases = []
    for params, make in CASES:
        found = [run([one() for one in make], text, row) for row in rows]
        kept, log_p = zip(*found, strict=True)
        cases.append({"params": params, "kept": kept, "log_p": log_p})
    logits = [[round(float(x), 4) for x in row] for row in rows]
    record = {"llama_cpp_python": llama_cpp.__version__, "text": text, "logits": logits}
    path.write_text(json.dumps({**record, "cases": cases}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
