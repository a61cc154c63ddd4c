"""Angles of rotary position embedding equal their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from naive import SLACK, U, config

from cpumix.config import Llama3Scaling
from cpumix.transformer.rope import cos_sin, frequencies

LLAMA3 = Llama3Scaling(8.0, 1.0, 4.0, 8192)


def llama3(turns: float, s: Llama3Scaling) -> float:
    """Return a stretched frequency, as the Llama 3 paper's code has it, in float64."""
    wavelength = 2 * math.pi / turns
    if wavelength < s.original_max_position_embeddings / s.high_freq_factor:
        return turns
    if wavelength > s.original_max_position_embeddings / s.low_freq_factor:
        return turns / s.factor
    smooth = s.original_max_position_embeddings / wavelength - s.low_freq_factor
    smooth /= s.high_freq_factor - s.low_freq_factor
    return (1 - smooth) * turns / s.factor + smooth * turns


def plain(theta: float, head_dim: int) -> np.ndarray:
    return theta ** -(np.arange(0, head_dim, 2) / head_dim)


# Where the exponent of theta is rounded, its logarithm times that is what the power is off by.
def bound(theta: float, roundings: int) -> float:
    return SLACK * U * (roundings + 2 * math.log(theta))


@pytest.mark.parametrize("theta", [1e4, 5e5, 1e6])
@pytest.mark.parametrize("head_dim", [2, 16, 40, 64, 128])
def test_frequencies(theta, head_dim):
    found = frequencies(config(rope_theta=theta, head_dim=head_dim), 4096).inv_freq
    expected = plain(theta, head_dim)
    assert found.dtype == np.float32
    assert found[0] == 1
    assert (np.abs(found / expected - 1) <= bound(theta, 4)).all()


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize(
    "scaling", [LLAMA3, Llama3Scaling(32.0, 1.0, 4.0, 8192), Llama3Scaling(2.0, 1.0, 32.0, 512)]
)
def test_llama_3_stretches_slow_pairs(head_dim, scaling):
    theta = 5e5
    shape = config(rope_theta=theta, head_dim=head_dim, rope_scaling=scaling)
    expected = np.array([llama3(turns, scaling) for turns in plain(theta, head_dim)])
    found = frequencies(shape, 4096).inv_freq
    assert found.dtype == np.float32
    span = scaling.high_freq_factor - scaling.low_freq_factor
    slack = bound(theta, 10) * scaling.high_freq_factor / span * scaling.factor
    assert (np.abs(found / expected - 1) <= slack).all()
    assert found[0] == 1  # the fastest pair turns as before
    assert found[-1] == pytest.approx(plain(theta, head_dim)[-1] / scaling.factor, rel=1e-5)


def test_some_pairs_are_between():
    """The examples above have pairs of all three kinds."""
    turns = plain(5e5, 128)
    kinds = [llama3(f, LLAMA3) / f for f in turns]
    assert min(kinds) == pytest.approx(1 / 8)
    assert max(kinds) == 1
    assert sum(1 / 8 + 1e-9 < kind < 1 for kind in kinds) > 5


def test_rotation_of_a_later_batch_continues_the_first():
    turns = frequencies(config(head_dim=64), 4096)
    whole = cos_sin(turns, np.arange(3000))
    for first, count in ((0, 1), (7, 13), (2999, 1)):
        part = cos_sin(turns, np.arange(first, first + count))
        for a, b in zip(whole, part, strict=True):
            assert b.shape == (count, 32)
            assert b.dtype == np.float32
            assert (a[first : first + count] == b).all()


def test_angles_are_products_in_float32():
    """At position 3000 the rounding of the angle is visible, and part of the model's definition."""
    found = frequencies(config(head_dim=64), 4096)
    cos, sin = cos_sin(found, np.array([3000]))
    turns = found.inv_freq
    angle = (np.float32(3000) * turns).astype(np.float64)
    assert np.abs(cos[0] - np.cos(angle)).max() <= 8 * U
    assert np.abs(sin[0] - np.sin(angle)).max() <= 8 * U
    exact = 3000 * turns.astype(np.float64)
    assert np.abs(np.cos(exact) - np.cos(angle)).max() > 100 * U
