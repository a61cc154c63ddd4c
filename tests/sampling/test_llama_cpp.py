"""The filters that llama.cpp has too, against what it kept (tools/record_llama_sampling.py)."""

from __future__ import annotations

import pytest
from kept_tokens import assert_same_kept, load_golden

GOLDEN = load_golden("llama_cpp.json")


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: str(case["params"]))
def test_the_same_tokens_are_kept_with_the_same_probabilities(case):
    assert_same_kept(GOLDEN, case, tolerance=2e-5)


def test_every_parameter_of_a_filter_is_compared():
    changed = set().union(*(case["params"] for case in GOLDEN["cases"]))
    same_in_both = {"logit_bias", "mirostat_eta", "dry_sequence_breakers", "dry_allowed_length"}
    filters = {"temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p"}
    filters |= {"typical_p", "top_n_sigma", "xtc_probability", "xtc_threshold", "repeat_last_n"}
    filters |= {"repeat_penalty", "presence_penalty", "frequency_penalty", "dry_multiplier"}
    filters |= {"dry_base", "dry_penalty_last_n", "mirostat", "mirostat_tau"}
    assert filters <= changed <= filters | same_in_both
