"""Compensated rounding equals published GPTQ, and is plain rounding where nothing is owed."""

from __future__ import annotations

import numpy as np
import pytest
from naive import hard

from cpumix.quant import FORMATS
from cpumix.quant.compensate import PANEL, compensate, feedback
from cpumix.quant.tiles import BLOCK

ROUNDERS = [name for name, f in FORMATS.items() if f.rounder]


def moments(k: int, seed: int) -> np.ndarray:
    """Return second moments (k, k) of inputs that have much in common."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((4 * k, k)) + 2 * random.standard_normal((4 * k, 3)) @ (
        random.standard_normal((3, k))
    )
    h = x.T @ x / len(x)
    return h + 0.02 * np.diag(h).mean() * np.eye(k)


def loss(errors: np.ndarray, h: np.ndarray) -> np.ndarray:
    """Return what each row's errors do to outputs."""
    wide = errors.astype(np.float64)
    return np.einsum("ni,ij,nj->n", wide, h, wide)


def published(w: np.ndarray, h: np.ndarray, name: str) -> np.ndarray:
    """Return what w becomes by GPTQ, in float64 and column by column.

    Each column's error is spread over the columns to come, by the Cholesky factor of the inverse.
    """
    rounder = FORMATS[name].rounder
    upper = np.linalg.cholesky(np.linalg.inv(h)).T
    left, out = w.astype(np.float64), np.zeros(w.shape)
    row_scales = rounder.row_scales(w)
    for j in range(w.shape[1]):
        if j % rounder.block == 0:
            x = left[:, j : j + rounder.block].astype(np.float32)
            factors, tables = rounder.widen(rounder.search(x, row_scales), row_scales)
        numbers = rounder.tables[tables].astype(np.float64) * factors[:, None]
        nearest = np.abs(numbers - left[:, j : j + 1]).argmin(1)
        out[:, j] = numbers[np.arange(len(w)), nearest]
        error = (left[:, j] - out[:, j]) / upper[j, j]
        left[:, j:] -= error[:, None] * upper[j, j:]
    return out


@pytest.mark.parametrize("kind", ["random", "zeros", "outlier"])
@pytest.mark.parametrize(("n", "k"), [(16, 32), (17, 33), (40, 300)])
@pytest.mark.parametrize("name", ROUNDERS)
def test_without_feedback_it_is_plain_rounding(name, n, k, kind):
    w = hard(kind, n, k, seed=n * k)
    blocks = -(-k // BLOCK)
    none = [np.zeros((BLOCK, BLOCK), np.float32)] * blocks
    tiles, errors = compensate(w, none, FORMATS[name].rounder)
    assert (tiles == FORMATS[name].quantize(w)).all()
    became = FORMATS[name].dequantize(tiles, n, k)
    assert (errors[:, :k] == w - became).all()


@pytest.mark.parametrize("name", ROUNDERS)
def test_equals_gptq_as_published(name):
    """In float32 a number may fall to the other side of a middle, and all after it in its row."""
    n, k = 64, 2 * PANEL + BLOCK
    w, h = hard("random", n, k, seed=1), moments(k, seed=2)
    tiles, errors = compensate(w, [feedback(h)], FORMATS[name].rounder)
    became, expected = FORMATS[name].dequantize(tiles, n, k), published(w, h, name)
    same = np.isclose(became, expected, rtol=1e-6).all(1)
    assert same.mean() > 0.9
    assert np.allclose(w - errors, became, atol=1e-6)
    assert loss(errors, h).sum() == pytest.approx(loss(w - expected, h).sum(), rel=0.01)


@pytest.mark.parametrize("name", ROUNDERS)
def test_outputs_change_less_than_by_plain_rounding(name):
    n, k = 48, 256
    w, h = hard("random", n, k, seed=3), moments(k, seed=4)
    plain = w - FORMATS[name].dequantize(FORMATS[name].quantize(w), n, k)
    _, errors = compensate(w, [feedback(h)], FORMATS[name].rounder)
    assert (errors**2).sum() > (plain**2).sum()  # of the weights themselves it changes more
    assert loss(errors, h).sum() < 0.8 * loss(plain, h).sum()


def test_parts_know_nothing_of_each_other():
    w, h = hard("random", 20, 256, seed=5), moments(128, seed=6)
    own = feedback(h)
    tiles, errors = compensate(w, [own, own], FORMATS["q4"].rounder)
    halves = [compensate(part, [own], FORMATS["q4"].rounder) for part in (w[:, :128], w[:, 128:])]
    assert (tiles == np.concatenate([half[0] for half in halves], axis=1)).all()
    assert (errors == np.concatenate([half[1] for half in halves], axis=1)).all()


def test_moments_that_are_none():
    with pytest.raises(np.linalg.LinAlgError):
        feedback(np.array([[1.0, 2.0], [2.0, 1.0]]))
