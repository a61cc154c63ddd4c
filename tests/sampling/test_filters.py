"""Each filter against its definition, on random logits, with ties, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import slow

from cpumix.errors import ConfigError
from cpumix.sampling import Sampler, SamplingParams
from cpumix.sampling.candidates import Candidates
from cpumix.sampling.filters import FILTERS, create_filters
from cpumix.sampling.history import History
from cpumix.sampling.state import SequenceState

TEXT = np.random.default_rng(8).integers(0, 12, 150).tolist()
OFF = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0}


def make_logits(seed: int, n: int = 400) -> np.ndarray:
    random = np.random.default_rng(seed)
    logits = random.normal(0, [0.3, 2, 6][seed % 3], n).astype(np.float32)
    if seed % 2:
        logits = np.round(logits * 2) / 2
    if seed % 5 == 4:
        logits[random.random(n) < 0.5] = -np.inf
    return logits


def state(text=(), random=0) -> SequenceState:
    return SequenceState(History(text), np.random.default_rng(random), ends=frozenset({3, 5}))


def run(logits: np.ndarray, text=(), **params) -> Candidates:
    """Run the filters that are not off."""
    candidates = Candidates(logits)
    for narrow in create_filters(SamplingParams(**{**OFF, **params}), state(text)):
        narrow(candidates)
    return candidates


def check(found: Candidates, expected: dict[int, float], tolerance: float = 1e-9) -> None:
    assert sorted(found.ids.tolist()) == sorted(expected)
    p = slow.softmax(expected)
    assert found.probabilities() == pytest.approx([p[t] for t in found.ids], rel=tolerance)
    assert (np.diff(found.behind) <= 0).all()
    assert found.behind[0] == 0


SEEDS = range(15)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 3, 40, 399, 1000])
def test_top_k(seed, k):
    logits = make_logits(seed)
    found = run(logits, top_k=k)
    check(found, slow.top_k(slow.start(logits), k))
    assert found.ids.tolist() == slow.best_first(slow.start(logits))[:k]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("share", [1e-9, 0.1, 0.5, 0.95, 0.9999])
def test_top_p(seed, share):
    logits = make_logits(seed)
    check(run(logits, top_p=share), slow.top_p(slow.start(logits), share))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("top_k", [0, 30])
def test_min_p(seed, share, top_k):
    """It works before anything is sorted, and after."""
    logits = make_logits(seed)
    kept = slow.start(logits)
    kept = slow.top_k(kept, top_k) if top_k else kept
    check(run(logits, min_p=share, top_k=top_k), slow.min_p(kept, share))


def test_min_p_1_keeps_the_equals_of_the_best():
    assert run(np.array([1, 2, 2, 0], np.float32), min_p=1).ids.tolist() == [1, 2]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_typical_p(seed, share):
    logits = np.random.default_rng(seed).normal(0, 3, 300).astype(np.float32)
    check(run(logits, typical_p=share), slow.typical_p(slow.start(logits), share))


def test_typical_p_may_leave_out_the_likeliest():
    """Entropy 3.1 nats: 0.4 surprises by 0.9, 2.2 from it; 0.01 by 4.6, 1.5 from it."""
    logits = np.log(np.array([0.4] + [0.01] * 60, np.float32))
    assert run(logits, typical_p=0.025).ids.tolist() == [1, 2, 3]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("n", [0.5, 1.0, 3.0])
def test_top_n_sigma(seed, n):
    logits = make_logits(seed)
    check(run(logits, top_n_sigma=n), slow.top_n_sigma(slow.start(logits), n))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 0.5])
def test_xtc(seed, threshold):
    logits = make_logits(seed, 30)
    found = run(logits, xtc_probability=1, xtc_threshold=threshold)
    check(found, slow.xtc(slow.start(logits), threshold))


def test_xtc_acts_as_often_as_it_should():
    logits = np.log(np.array([0.4, 0.35, 0.25], np.float32))
    params = SamplingParams(**OFF, xtc_probability=0.3, xtc_threshold=0.3, seed=1)
    sampler = Sampler(params)
    firsts = sum(sampler(logits) == 0 for _ in range(4000))
    assert abs(firsts / 4000 - 0.7 * 0.4) < 4.5 * math.sqrt(0.28 * 0.72 / 4000)


def test_xtc_leaves_one_candidate_alone():
    found = run(np.array([1, 2], np.float32), top_k=1, xtc_probability=1, xtc_threshold=0)
    assert found.ids.tolist() == [1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("t", [0, 0.3, 1.7])
def test_temperature(seed, t):
    logits = make_logits(seed)
    check(run(logits, temperature=t), slow.temperature(slow.start(logits), t))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("t", "spread", "exponent"), [(0, 1, 1), (1, 0.5, 1), (0.8, 2, 0.5)])
def test_dynamic_temperature(seed, t, spread, exponent):
    logits = make_logits(seed, 50)
    found = run(logits, temperature=t, dynatemp_range=spread, dynatemp_exponent=exponent)
    check(found, slow.dynamic_temperature(slow.start(logits), t, spread, exponent), 1e-6)


def test_dynamic_temperature_leaves_one_candidate_alone():
    assert run(np.array([1, 2], np.float32), top_k=1, dynatemp_range=1).ids.tolist() == [1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("window", [-1, 0, 1, 20, 1000])
@pytest.mark.parametrize(("repeat", "presence", "frequency"), [(1.3, 0, 0), (0.7, -1, 0.2)])
def test_penalties(seed, window, repeat, presence, frequency):
    logits = make_logits(seed, 20)
    found = run(
        logits,
        TEXT,
        repeat_last_n=window,
        repeat_penalty=repeat,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    expected = slow.penalties(slow.start(logits), TEXT, window, repeat, presence, frequency)
    check(found, expected, 1e-5)  # penalties are float32


def test_whole_number_as_penalty_is_as_good_as_a_fraction():
    logits = np.arange(8, dtype=np.float32)
    whole, fraction = (run(logits, [3], frequency_penalty=n) for n in (1 << 64, 2.0**64))
    assert whole.probabilities().tolist() == fraction.probabilities().tolist()
    assert 3 not in whole.ids[:7]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("window", [-1, 0, 1, 20, 1000])
@pytest.mark.parametrize(("base", "allowed"), [(1.75, 2), (1.0, 1), (3.0, 4)])
def test_dry(seed, window, base, allowed):
    logits = make_logits(seed, 6)
    text = np.random.default_rng(seed).integers(0, 3, 60).tolist()
    found = run(
        logits,
        text,
        dry_multiplier=0.7,
        dry_base=base,
        dry_allowed_length=allowed,
        dry_penalty_last_n=window,
    )
    check(found, slow.dry(slow.start(logits), text, window, 0.7, base, allowed), 1e-4)


def test_dry_of_a_long_repetition_stays_finite():
    logits = np.zeros(3, np.float32)
    found = run(logits, [1] * 500, dry_multiplier=1e30, dry_base=1e9, dry_penalty_last_n=-1)
    assert found.probabilities().tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("seed", SEEDS)
def test_logit_bias(seed):
    logits = make_logits(seed)
    biases = {0: 2.5, 17: -3, 40: -math.inf, 399: 100}
    check(run(logits, logit_bias=biases), slow.logit_bias(slow.start(logits), biases), 1e-5)


def test_ignore_eos_rules_out_what_ends_a_text():
    found = run(np.zeros(8, np.float32), ignore_eos=True)
    assert found.ids.tolist() == [0, 1, 2, 4, 6, 7]


def test_a_bias_for_a_token_that_is_none_is_refused():
    message = "^logit_bias: expected tokens below 8, the size of the vocabulary, found 8"
    with pytest.raises(ConfigError, match=message):
        run(np.zeros(8, np.float32), logit_bias={8: 1})


@pytest.mark.parametrize("more", [{}, {"min_p": 0.1}, {"top_k": 2}, {"temperature": 0}])
def test_nothing_left_to_draw_is_refused(more):
    everything = dict.fromkeys(range(4), -math.inf)
    message = "^logit_bias: expected some token to remain, found all of them ruled out"
    with pytest.raises(ConfigError, match=message):
        _ = run(np.zeros(4, np.float32), logit_bias=everything, **more).ids


@pytest.mark.parametrize("seed", SEEDS)
def test_mirostat_cuts_and_learns_as_defined(seed):
    random = np.random.default_rng(seed)
    params = SamplingParams(mirostat=2, mirostat_tau=3, mirostat_eta=0.3, temperature=0.9, seed=4)
    sampler, theirs, limit = Sampler(params), np.random.default_rng(4), 6.0
    for _ in range(40):
        logits = random.normal(0, 2, 200).astype(np.float32)
        kept = slow.mirostat(slow.temperature(slow.start(logits), 0.9), limit)
        token = slow.draw(kept, theirs)
        assert sampler(logits) == token
        limit -= 0.3 * (-math.log2(slow.softmax(kept)[token]) - 3)


def test_mirostat_aims_at_its_surprise():
    """Averaged over many tokens, the surprise comes to tau bits."""
    random = np.random.default_rng(1)
    sampler = Sampler(SamplingParams(mirostat=2, mirostat_tau=4, temperature=1, seed=4))
    surprises = []
    for _ in range(400):
        logits = random.normal(0, 2, 2000).astype(np.float32)
        mirostat = sampler._mirostat[0]
        before = mirostat._limit
        sampler(logits)
        surprises.append((before - mirostat._limit) / 0.1 + 4)
    assert np.mean(surprises[100:]) == pytest.approx(4, abs=0.2)


def test_the_order_is_that_of_llama_cpp():
    """penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature, after the biases."""
    assert [*FILTERS] == [
        "logit_bias",
        "penalties",
        "dry",
        "top_n_sigma",
        "top_k",
        "typical_p",
        "top_p",
        "min_p",
        "xtc",
        "dynamic_temperature",
        "temperature",
        "mirostat",
    ]


def test_defaults_are_those_of_llama_cpp():
    """Source: tools/server/README.md of llama.cpp, "Sampling params", 2026-11."""
    defaults = SamplingParams()
    assert (defaults.temperature, defaults.top_k) == (0.8, 40)
    assert (defaults.top_p, defaults.min_p) == (0.95, 0.05)
    off = ("dynatemp_range", "xtc_probability", "presence_penalty", "frequency_penalty")
    assert all(getattr(defaults, name) == 0 for name in (*off, "dry_multiplier", "mirostat"))
    assert (defaults.typical_p, defaults.repeat_penalty, defaults.top_n_sigma) == (1, 1, -1)
    assert (defaults.repeat_last_n, defaults.dry_penalty_last_n) == (64, 64)
    assert (defaults.dry_base, defaults.dry_allowed_length) == (1.75, 2)
    assert (defaults.mirostat_tau, defaults.mirostat_eta) == (5, 0.1)
    assert (defaults.xtc_threshold, defaults.dynatemp_exponent) == (0.1, 1)
    assert defaults.dry_sequence_breakers == ("\n", ":", '"', "*")


def test_filters_that_change_nothing_are_not_run():
    assert create_filters(SamplingParams(**OFF), state()) == []
    assert len(create_filters(SamplingParams(), state())) == 4
    assert len(create_filters(SamplingParams(temperature=0), state())) == 1


CHAINS = [
    {},
    {"temperature": 1.5, "top_k": 0, "top_p": 0.9},
    {"repeat_penalty": 1.4, "frequency_penalty": 0.1, "repeat_last_n": 30},
    {"top_n_sigma": 1.2, "typical_p": 0.9, "min_p": 0},
    {"xtc_probability": 1, "xtc_threshold": 0.05, "top_p": 1},
    {"temperature": 0, "xtc_probability": 1, "xtc_threshold": 0.05},
    {"temperature": 0, "typical_p": 0.3, "top_k": 7},
    {"dynatemp_range": 0.5, "logit_bias": {1: 4.0, 3: -math.inf}},
]


@pytest.mark.parametrize("chain", CHAINS, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_a_chain_draws_what_its_definitions_draw(chain, seed):
    params = SamplingParams(**chain, seed=6)
    sampler, theirs, text = Sampler(params, TEXT), np.random.default_rng(6), [*TEXT]
    random = np.random.default_rng(seed)
    for _ in range(30):
        logits = random.normal(0, 2, 100).astype(np.float32)
        kept = slow.logit_bias(slow.start(logits), params.logit_bias)
        kept = slow.penalties(kept, text, 30, params.repeat_penalty, 0, params.frequency_penalty)
        if params.top_n_sigma > 0:
            kept = slow.top_n_sigma(kept, params.top_n_sigma)
        kept = slow.top_k(kept, params.top_k or 100)
        if params.typical_p < 1:
            kept = slow.typical_p(kept, params.typical_p)
        kept = slow.min_p(slow.top_p(kept, params.top_p), params.min_p)
        if params.xtc_probability and len(kept) > 1:
            theirs.random()
            kept = slow.xtc(kept, params.xtc_threshold)
        if params.dynatemp_range:
            kept = slow.dynamic_temperature(kept, params.temperature, params.dynatemp_range, 1)
        else:
            kept = slow.temperature(kept, params.temperature)
        token = slow.best_first(kept)[0] if params.greedy else slow.draw(kept, theirs)
        assert sampler(logits) == token
        text.append(token)
