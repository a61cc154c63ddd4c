"""Sampling: which tokens may be drawn, how often, and that a seed repeats itself."""

from __future__ import annotations

import numpy as np
import pytest

from cpumix.errors import FormatError
from cpumix.sampling import Sampler, SamplingParams

LOGITS = np.log(np.array([0.1, 0.4, 0.05, 0.25, 0.2], np.float32))
BEST_FIRST = [1, 3, 4, 0, 2]
DRAWS = 4000


def sampler(temperature: float, top_k: int, top_p: float, seed: int | None) -> Sampler:
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=0, seed=seed)
    return Sampler(params)


def draw(sampler: Sampler, logits: np.ndarray = LOGITS, count: int = DRAWS) -> list[int]:
    return [sampler(logits) for _ in range(count)]


def shares(ids: list[int]) -> np.ndarray:
    return np.bincount(ids, minlength=5) / len(ids)


def deviation(p: np.ndarray) -> np.ndarray:
    """Return 4.5 standard deviations of a share: 1 test in 100,000 would fail by chance."""
    return 4.5 * np.sqrt(p * (1 - p) / DRAWS)


def test_temperature_zero_takes_the_likeliest():
    assert set(draw(sampler(0, 0, 1, None), count=20)) == {1}


def test_temperature_zero_takes_the_first_of_equals():
    assert sampler(0, 0, 1, None)(np.array([1, 3, 3, 2], np.float32)) == 1


def test_temperature_one_draws_by_probability():
    p = np.exp(LOGITS.astype(np.float64))
    assert (np.abs(shares(draw(sampler(1, 0, 1, 0))) - p) <= deviation(p)).all()


@pytest.mark.parametrize("temperature", [0.3, 0.7, 2.0])
def test_temperature_sharpens_and_flattens(temperature):
    p = np.exp(LOGITS.astype(np.float64) / temperature)
    p /= p.sum()
    assert (np.abs(shares(draw(sampler(temperature, 0, 1, 0))) - p) <= deviation(p)).all()


def test_next_to_no_temperature_is_greedy():
    assert set(draw(sampler(1e-40, 0, 1, 0), count=50)) == {1}


@pytest.mark.parametrize("k", [1, 2, 4, 5, 99])
def test_top_k(k):
    assert set(draw(sampler(1, k, 1, 0), count=500)) == set(BEST_FIRST[:k])


def test_top_k_of_equals_keeps_the_first():
    assert set(draw(sampler(1, 2, 1, 0), np.zeros(5, np.float32), 200)) == {0, 1}


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1e-9, 1), (0.39, 1), (0.41, 2), (0.64, 2), (0.66, 3), (0.96, 5), (1, 5)]
)
def test_top_p_keeps_the_token_that_reaches_it(top_p, kept):
    assert set(draw(sampler(1, 0, top_p, 0), count=500)) == set(BEST_FIRST[:kept])


def test_top_p_counts_before_temperature():
    """The order is llama.cpp's: at a temperature of 0.1 the first alone would hold 0.99."""
    assert set(draw(sampler(1.5, 0, 0.6, 0), count=500)) == {1, 3}


def test_top_p_counts_what_top_k_left():
    """Of the best two 0.4 / 0.65 = 0.615 is the first's."""
    assert set(draw(sampler(1, 2, 0.6, 0), count=200)) == {1}
    assert set(draw(sampler(1, 2, 0.63, 0), count=200)) == {1, 3}


def test_the_rest_is_drawn_in_proportion():
    p = np.array([0, 0.4, 0, 0.25, 0.2]) / 0.85
    assert (np.abs(shares(draw(sampler(1, 3, 1, 1))) - p) <= deviation(p)).all()


def test_seed_repeats_itself():
    first, again, other = (draw(sampler(1, 0, 1, seed), count=50) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_no_seed_differs_each_time():
    assert draw(sampler(1, 0, 1, None), count=50) != draw(sampler(1, 0, 1, None), count=50)


def test_tokens_are_plain_ints():
    assert [type(sampler(t, 0, 1, 0)(LOGITS)) for t in (0, 1)] == [int, int]


def test_logits_are_left_alone():
    logits = LOGITS.copy()
    sampler(0.5, 3, 0.9, 0)(logits)
    assert (logits == LOGITS).all()


def test_extreme_logits():
    logits = np.array([-3e38, 3e38, -np.inf, 0], np.float32)
    assert set(draw(sampler(1, 0, 1, 0), logits, 20)) == {1}
    assert set(draw(sampler(1, 0, 0.5, 0), logits, 20)) == {1}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_numbers_are_refused(value, temperature):
    logits = np.array([1, 2, value], np.float32)
    message = rf"^logits: expected numbers, found {value} for token 2\. .* run cpumix verify\.$"
    with pytest.raises(FormatError, match=message):
        sampler(temperature, 0, 1, 0)(logits)


def test_the_seed_that_was_drawn_is_known_and_repeats_the_tokens():
    first = Sampler(SamplingParams(temperature=1))
    assert 0 <= first.seed < 2**53
    again = Sampler(SamplingParams(temperature=1, seed=first.seed))
    assert draw(first, count=50) == draw(again, count=50)


def test_a_sampler_draws_the_same_beside_others():
    """Its numbers are its own: what others draw in between changes nothing."""
    alone = draw(sampler(1, 0, 1, 3), count=50)
    one, other = sampler(1, 0, 1, 3), sampler(1, 0, 1, 4)
    assert [(one(LOGITS), other(LOGITS))[0] for _ in range(50)] == alone


def sort_everything(logits, random, temperature, top_k=0, top_p=1.0):
    """Draw a token as the first sampler did: sort the whole vocabulary, then cut."""
    if temperature == 0:
        return int(logits.argmax())
    ids = np.argsort(-logits, kind="stable")
    if top_k:
        ids = ids[:top_k]
    behind = logits[ids].astype(np.float64) - logits[ids[0]]
    p = np.exp(behind) / np.exp(behind).sum()
    keep = 1 + int(np.searchsorted(np.cumsum(p), top_p)) if top_p < 1 else len(p)
    with np.errstate(over="ignore"):
        p = np.exp(behind[:keep] / temperature)
    p /= p.sum()
    cumulative = np.cumsum(p)
    place = np.searchsorted(cumulative, random.random() * cumulative[-1], side="right")
    return int(ids[min(place, len(cumulative) - 1)])


@pytest.mark.parametrize("temperature", [0, 1e-9, 0.8, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 40])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3])
@pytest.mark.parametrize("ties", [False, True])
def test_tokens_are_those_of_the_full_sort(temperature, top_k, top_p, ties):
    """Seed for seed and bit for bit: nothing but time is saved by not sorting everything."""
    random = np.random.default_rng(11)
    fast, theirs = sampler(temperature, top_k, top_p, 9), np.random.default_rng(9)
    for _ in range(25):
        logits = random.normal(0, 3, 2000).astype(np.float32)
        if ties:
            logits = np.round(logits)
        assert fast(logits) == sort_everything(logits, theirs, temperature, top_k, top_p)
