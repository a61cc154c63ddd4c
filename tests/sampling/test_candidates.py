"""The order of candidates: that of a stable sort of everything, ties included."""

from __future__ import annotations

import numpy as np
import pytest

from cpumix.sampling.candidates import Candidates, best_first


def logits_of(kind: str, n: int = 3000) -> np.ndarray:
    random = np.random.default_rng(5)
    logits = random.normal(0, 4, n).astype(np.float32)
    if kind == "ties":
        logits = np.round(logits)
    elif kind == "all equal":
        logits[:] = -1.5
    elif kind == "zeros of both signs":
        logits = np.where(random.random(n) < 0.5, np.float32(0), np.float32(-0.0))
    elif kind == "minus infinity":
        logits[random.random(n) < 0.9] = -np.inf
    elif kind == "extremes":
        logits[::7] = np.finfo(np.float32).max
        logits[1::7] = np.finfo(np.float32).min
        logits[2::7] = np.finfo(np.float32).smallest_subnormal
    return logits


KINDS = ["normal", "ties", "all equal", "zeros of both signs", "minus infinity", "extremes"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 2, 40, 2999, 3000, 10**6])
def test_best_first_is_the_start_of_a_stable_sort(kind, count):
    logits = logits_of(kind)
    assert (
        best_first(logits, count).tolist()
        == np.argsort(-logits, kind="stable")[: count or None].tolist()
    )


def test_best_first_of_one_token():
    assert best_first(np.zeros(1, np.float32), 40).tolist() == [0]


def test_candidates_are_behind_the_best():
    candidates = Candidates(np.array([1, 4, 3.5], np.float32))
    candidates.keep(2)
    assert candidates.ids.tolist() == [1, 2]
    assert candidates.behind.tolist() == [0, -0.5]
    e = np.exp(-0.5)
    assert candidates.probabilities() == pytest.approx([1 / (1 + e), e / (1 + e)])


def test_ruled_out_tokens_are_no_candidates():
    logits = np.array([-np.inf, 1, -np.inf, 2], np.float32)
    for cut in (lambda c: None, lambda c: c.keep(3), lambda c: c.keep_within(1e9)):
        candidates = Candidates(logits)
        cut(candidates)
        assert candidates.ids.tolist() == [3, 1]


def test_adjusting_leaves_the_model_s_logits_alone():
    logits = np.array([1, 2], np.float32)
    candidates = Candidates(logits)
    candidates.adjust()[0] += 5
    candidates.adjust()[1] += 1
    assert candidates.ids.tolist() == [0, 1]
    assert logits.tolist() == [1, 2]
