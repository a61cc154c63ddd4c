"""What another program's filters kept of some logits, and whether ours keep the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cpumix.sampling import SamplingParams
from cpumix.sampling.candidates import Candidates
from cpumix.sampling.filters import create_filters
from cpumix.sampling.history import History
from cpumix.sampling.state import SequenceState

FOLDER = Path(__file__).parents[1] / "data" / "sampling"
OFF = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}


def load_golden(name: str) -> dict[str, Any]:
    """Return a recording: logits, a text before them, and what was kept in each case."""
    golden: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return golden


def assert_same_kept(golden: dict[str, Any], case: dict[str, Any], tolerance: float) -> None:
    """Compare the tokens kept exactly, and the logarithms of their probabilities."""
    params = SamplingParams(**OFF | case["params"])
    for row, kept, log_p in zip(golden["logits"], case["kept"], case["log_p"], strict=True):
        state = SequenceState(History(golden["text"]), np.random.default_rng(0))
        candidates = Candidates(np.array(row, np.float32))
        for narrow in create_filters(params, state):
            narrow(candidates)
        order = np.argsort(candidates.ids)
        assert candidates.ids[order].tolist() == kept
        assert np.log(candidates.probabilities()[order]) == pytest.approx(log_p, abs=tolerance)
