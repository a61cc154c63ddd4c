"""Log-probabilities of drawn tokens: the model's own, whatever was filtered."""

from __future__ import annotations

import math

import numpy as np
import pytest
import slow

from cpumix.sampling import Sampler, SamplingParams
from cpumix.sampling.log_probabilities import log_probability


@pytest.mark.parametrize("seed", range(5))
def test_they_are_the_log_softmax(seed):
    logits = np.random.default_rng(seed).normal(0, 5, 300).astype(np.float32)
    found = log_probability(logits, 7, 4)
    p = slow.softmax(slow.start(logits))
    assert (found.token, found.logprob) == (7, pytest.approx(math.log(p[7]), rel=1e-12))
    best = slow.best_first(slow.start(logits))[:4]
    assert [token for token, _ in found.top] == best
    assert [x for _, x in found.top] == pytest.approx([math.log(p[token]) for token in best])


def test_no_other_tokens_are_given_unasked():
    assert log_probability(np.zeros(4, np.float32), 1, 0).top == ()


def test_extreme_logits_give_finite_or_infinite_numbers_and_no_warnings():
    found = log_probability(np.array([3e38, -3e38, -np.inf], np.float32), 2, 3)
    assert found.logprob == -math.inf
    assert [token for token, _ in found.top] == [0, 1, 2]


def test_a_sampler_gives_those_of_its_last_token():
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    params = SamplingParams(temperature=0.1, top_k=1, logit_bias={0: -5.0}, logprobs=2)
    sampler = Sampler(params)
    assert sampler(logits) == 1
    assert sampler.log_probability.token == 1
    assert sampler.log_probability.logprob == pytest.approx(math.log(0.3), abs=1e-6)
    assert sampler.log_probability.top[0] == (0, pytest.approx(math.log(0.5), abs=1e-6))


def test_a_sampler_that_is_not_asked_has_none():
    sampler = Sampler(SamplingParams())
    sampler(np.zeros(3, np.float32))
    assert sampler.log_probability is None
