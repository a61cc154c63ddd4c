"""The filters that llama.cpp has too, against what it kept (tools/record_llama_sampling.py)."""

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

PATH = Path(__file__).parents[1] / "data" / "sampling" / "llama_cpp.json"
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
        assert np.log(candidates.probabilities()[order]) == pytest.approx(log_p, abs=2e-5)


def test_every_parameter_of_a_filter_is_compared():
    changed = set().union(*(case["params"] for case in GOLDEN["cases"]))
    same_in_both = {"logit_bias", "mirostat_eta", "dry_sequence_breakers", "dry_allowed_length"}
    filters = {"temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p"}
    filters |= {"typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "repeat_last_n"}
    filters |= {"repeat_penalty", "presence_penalty", "frequency_penalty", "dry_multiplier"}
    filters |= {"dry_base", "dry_penalty_last_n", "mirostat", "mirostat_tau"}
    assert filters <= changed <= filters | same_in_both
