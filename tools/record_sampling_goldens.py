"""Record what the samplers of transformers keep, for tests/sampling/test_transformers.py.

    python tools/record_sampling_goldens.py tests/data/sampling/transformers.json

Needs torch and transformers, which the tests themselves do without.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.generation import logits_process

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [  # theirs, its arguments, our parameters
    ("TemperatureLogitsWarper", {"temperature": 0.4}, {"temperature": 0.4}),
    ("TemperatureLogitsWarper", {"temperature": 1.8}, {"temperature": 1.8}),
    ("TopKLogitsWarper", {"top_k": 1}, {"top_k": 1}),
    ("TopKLogitsWarper", {"top_k": 11}, {"top_k": 11}),
    ("TopPLogitsWarper", {"top_p": 0.35}, {"top_p": 0.35}),
    ("TopPLogitsWarper", {"top_p": 0.92}, {"top_p": 0.92}),
    ("MinPLogitsWarper", {"min_p": 0.03}, {"min_p": 0.03}),
    ("MinPLogitsWarper", {"min_p": 0.4}, {"min_p": 0.4}),
    ("TypicalLogitsWarper", {"mass": 0.2}, {"typical_p": 0.2}),
    ("TypicalLogitsWarper", {"mass": 0.9}, {"typical_p": 0.9}),
    (
        "RepetitionPenaltyLogitsProcessor",
        {"penalty": 1.3},
        {"repeat_penalty": 1.3, "repeat_last_n": -1},
    ),
    (
        "RepetitionPenaltyLogitsProcessor",
        {"penalty": 0.8},
        {"repeat_penalty": 0.8, "repeat_last_n": -1},
    ),
]
SPREADS = [0.5, 2, 5]  # standard deviations of the logits


def main(path: Path) -> None:
    """Run every case on each kind of logits; write inputs and log-probabilities."""
    random = np.random.default_rng(0)
    text = random.integers(0, 60, 30).tolist()
    rows = [random.normal(0, spread, 60).astype(np.float32).round(4) for spread in SPREADS]
    cases = []
    for name, arguments, params in CASES:
        process = getattr(logits_process, name)(**arguments)
        scores = [process(torch.tensor([text]), torch.tensor(row[None].copy()))[0] for row in rows]
        kept = [[i for i, score in enumerate(row.tolist()) if score > -np.inf] for row in scores]
        logs = [
            torch.log_softmax(row.double(), 0)[ids] for row, ids in zip(scores, kept, strict=True)
        ]
        logs = [[round(x, 6) for x in row.tolist()] for row in logs]
        cases.append({"processor": name, "params": params, "kept": kept, "log_p": logs})
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    logits = [[round(float(x), 4) for x in row] for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {**versions, "text": text, "logits": logits, "cases": cases}
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
