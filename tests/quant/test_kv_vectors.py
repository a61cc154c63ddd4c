"""Keys and values at 8 bits: how far off they are, and what they do with extremes."""

from __future__ import annotations

import numpy as np
import pytest

from cpumix.quant.kv import dequantize, quantize


def test_error_is_half_a_step():
    """A step is the largest magnitude / 127; float16 keeps 11 bits of it."""
    x = np.random.default_rng(0).standard_normal((50, 3, 64), np.float32)
    x *= np.logspace(-2, 4, 50, dtype=np.float32)[:, None, None]
    coded = quantize(x)
    assert coded.codes.shape == x.shape
    assert coded.scale.shape == (50, 3)
    assert np.abs(coded.codes).max() == 127
    step = np.abs(x).max(-1, keepdims=True) / 127
    assert (np.abs(dequantize(coded) - x) <= step * (0.5 + 127 / 2048)).all()


def test_zeros_stay_zero():
    coded = quantize(np.zeros((2, 16), np.float32))
    assert not coded.codes.any()
    assert not coded.scale.any()


@pytest.mark.parametrize("peak", [1e-3, 1e-5, 4e-6, 1e-30])
def test_scale_below_float16_loses_what_is_below_it(peak):
    x = np.linspace(-peak, peak, 16, dtype=np.float32)
    assert np.abs(dequantize(quantize(x[None])) - x).max() <= max(peak / 127, 2**-24 * 64)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e8])
def test_what_is_no_number_spoils_its_vector_only(bad):
    x = np.ones((3, 16), np.float32)
    x[1, 5] = bad
    with np.errstate(invalid="ignore", over="ignore"):
        found = dequantize(quantize(x))
    assert np.isnan(found[1]).all()
    assert (found[[0, 2]] == np.float32(np.float16(1 / 127)) * 127).all()
