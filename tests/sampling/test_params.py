"""Sampling parameters: the numbers that are taken, and the sentences for those that are not."""

from __future__ import annotations

import dataclasses
import re

import pytest

from cpumix.errors import ConfigError
from cpumix.sampling import SamplingParams
from cpumix.sampling.params import RANGES

REFUSED = [
    ("temperature", -0.1, "0 or more"),
    ("temperature", float("inf"), "0 or more"),
    ("temperature", float("nan"), "0 or more"),
    ("temperature", "hot", "0 or more"),
    ("temperature", None, "0 or more"),
    ("top_k", -1, "0 (all tokens) or more"),
    ("top_k", 2.0, "0 (all tokens) or more"),
    ("top_k", True, "0 (all tokens) or more"),
    ("top_p", 0, "more than 0 and at most 1"),
    ("top_p", 1.5, "more than 0 and at most 1"),
    ("top_p", float("nan"), "more than 0 and at most 1"),
    ("seed", -1, "0 or more"),
    ("seed", 0.5, "0 or more"),
]


@pytest.mark.parametrize(("name", "value", "expected"), REFUSED)
def test_a_number_out_of_range_is_named(name, value, expected):
    sentence = re.escape(f"{name}: expected {expected}, found {value!r}.")
    with pytest.raises(ConfigError, match=f"^{sentence}$"):
        SamplingParams(**{name: value})


def test_every_range_is_of_a_parameter_and_holds_its_default():
    params = SamplingParams()
    for name, allowed in RANGES.items():
        assert allowed.holds(getattr(params, name)) or getattr(params, name) is None


def test_numbers_at_the_ends_are_taken():
    SamplingParams(temperature=0, top_k=0, top_p=1, seed=0)
    SamplingParams(temperature=1e300, top_k=10**9, top_p=1e-300, seed=2**63)


def test_parameters_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().temperature = 1
