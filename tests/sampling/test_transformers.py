"""Filters that transformers has too, against its own (tools/record_sampling_goldens.py)."""

from __future__ import annotations

import pytest
from kept_tokens import assert_same_kept, load_golden

GOLDEN = load_golden("transformers.json")


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: str(case["params"]))
def test_the_same_tokens_are_kept_with_the_same_probabilities(case):
    assert_same_kept(GOLDEN, case, tolerance=3e-6)


def test_every_processor_that_transformers_has_is_compared():
    names = {case["processor"] for case in GOLDEN["cases"]}
    assert len(names) == 6
    assert len(GOLDEN["logits"]) == 3
