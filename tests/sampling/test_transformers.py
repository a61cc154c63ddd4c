"""Filters that transformers has too, against its own (tools/record_sampling_goldens.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cpumix.sampling import SamplingParams
from cpumix.sampling.candidates import Candidates
from cpumix.sampling.filters import create_filters
from cpumix.sampling.history import History
from cpumix.sampling.state import SequenceState

PATH = Path(__file__).parents[1] / "data" / "sampling" / "transformers.json"
GOLDEN = json.loads(PATH.read_text(encoding="utf-8"))
OFF = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: str(case["params"]))
def test_the_same_tokens_are_kept_with_the_same_probabilities(case):
    params = SamplingParams(**OFF | case["params"])
    for row, kept, log_p in zip(GOLDEN["logits"], case["kept"], case["log_p"], strict=True):
        state = SequenceState(History(GOLDEN["text"]), np.random.default_rng(0))
        candidates = Candidates(np.array(row, np.float32))
        for narrow in create_filters(params, state):
            narrow(candidates)
        order = np.argsort(candidates.ids)
        assert candidates.ids[order].tolist() == kept
        assert np.log(candidates.probabilities()[order]) == pytest.approx(log_p, abs=3e-6)


def test_every_processor_that_transformers_has_is_compared():
    names = {case["processor"] for case in GOLDEN["cases"]}
    assert len(names) == 6
    assert len(GOLDEN["logits"]) == 3
