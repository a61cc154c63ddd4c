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
    ("min_p", 1.1, "0 to 1"),
    ("typical_p", 0, "more than 0 and at most 1"),
    ("top_n_sigma", -2, "-1 (off), 0 (off) or more"),
    ("repeat_last_n", -2, "-1 (the whole text), 0 (off) or more"),
    ("repeat_penalty", 0, "more than 0"),
    ("presence_penalty", float("inf"), "a number"),
    ("dry_base", 0.9, "1 or more"),
    ("dry_allowed_length", 0, "1 or more"),
    ("mirostat", 1, "0 (off) or 2"),
    ("mirostat", 3, "0 (off) or 2"),
    ("logprobs", -1, "0 (only the token itself) or more"),
    ("seed", -1, "0 or more"),
    ("seed", 0.5, "0 or more"),
]


@pytest.mark.parametrize(("name", "value", "expected"), REFUSED)
def test_a_number_out_of_range_is_named(name, value, expected):
    sentence = re.escape(f"{name}: expected {expected}, found {value!r}.")
    with pytest.raises(ConfigError, match=f"^{sentence}$"):
        SamplingParams(**{name: value})


def test_a_long_value_is_shortened():
    with pytest.raises(ConfigError) as caught:
        SamplingParams(temperature="hot\n" * 1000)
    assert len(str(caught.value)) < 140
    assert "\n" not in str(caught.value)


def test_every_range_is_of_a_parameter_and_holds_its_default():
    params = SamplingParams()
    for name, allowed in RANGES.items():
        assert allowed.holds(getattr(params, name)) or getattr(params, name) is None


def test_numbers_at_the_ends_are_taken():
    SamplingParams(temperature=0, top_k=0, top_p=1, seed=0, repeat_last_n=-1, mirostat=2)
    SamplingParams(temperature=1e300, top_k=10**9, top_p=1e-300, seed=2**63)


def test_parameters_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SamplingParams().temperature = 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stop", "end", "^stop: expected a list of texts that are not empty, found 'end'"),
        ("stop", ["end", ""], "^stop: expected a list of texts that are not empty"),
        ("dry_sequence_breakers", [1], "^dry_sequence_breakers: expected a list of texts"),
        ("stop_token_ids", [1.5], r"^stop_token_ids: expected a list of token ids, found \[1.5"),
        ("stop_token_ids", 7, "^stop_token_ids: expected a list of token ids, found 7"),
        ("logit_bias", {-1: 1}, "^logit_bias: expected numbers by token id"),
        ("logit_bias", {1: float("inf")}, "^logit_bias: expected numbers by token id"),
        ("logit_bias", [1], "^logit_bias: expected numbers by token id"),
        ("logit_bias", {1: 10**400}, "^logit_bias: expected numbers by token id"),
        ("temperature", 10**400, "^temperature: expected 0 or more, found 10000"),
        ("presence_penalty", -(10**400), "^presence_penalty: expected a number, found -10000"),
    ],
)
def test_lists_and_biases_that_are_none_are_refused(name, value, message):
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**{name: value})


def test_lists_become_tuples():
    params = SamplingParams(stop=["a"], stop_token_ids=[1], logit_bias={2: 1})
    assert (params.stop, params.stop_token_ids, params.logit_bias) == (("a",), (1,), {2: 1.0})
    assert dataclasses.replace(params, top_k=3).stop == ("a",)
