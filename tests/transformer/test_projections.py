"""Biases of attention and norms of queries and keys equal their definitions, row by row."""

from __future__ import annotations

import numpy as np
import pytest
from oracle_cases import LLAMA, OLMOE, QWEN2, QWEN3_MOE
from tiny_models import write_model

import cpumix
from cpumix.transformer.projections import add_bias, norm

U = 2.0**-24


def rows(n: int, width: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal((n, width)).astype(np.float32)


def test_a_bias_is_added_to_its_columns_alone():
    x = rows(5, 48)
    expected = x.copy()
    expected[:, :40] += (bias := rows(1, 40)[0])
    add_bias(x, bias)
    assert (x == expected).all()


@pytest.mark.parametrize("size", [8, 24, 120])
def test_norm_of_each_stretch(size):
    x, gain, eps = rows(7, 128), rows(1, size)[0], 1e-6
    expected = x.astype(np.float64)
    for row in expected:
        for start in range(0, 120, size):
            part = row[start : start + size]
            part *= gain / np.sqrt(np.mean(part**2) + eps)
    untouched = x[:, 120:].copy()
    norm(x, 120, gain, eps)
    assert np.abs(x / expected - 1).max() < (size + 8) * U
    assert (x[:, 120:] == untouched).all()


@pytest.mark.parametrize("size", [24, 120])
def test_norm_of_a_row_does_not_depend_on_the_others(size):
    x, gain = rows(40, 128), rows(1, size)[0]
    together = x.copy()
    norm(together, 120, gain, 1e-6)
    for i in range(len(x)):
        norm(x[i : i + 1], 120, gain, 1e-6)
    assert (x == together).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [LLAMA | {"attention_bias": True}, QWEN2, QWEN3_MOE, OLMOE],
    ids=["llama-bias", "qwen2", "qwen3_moe", "olmoe"],
)
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_prompt_at_once_equals_token_by_token(tmp_path, config, precision):
    target = write_model(tmp_path, config, precision)
    ids = list(range(3, 40))
    with cpumix.load(target) as model:
        together = model.logits(ids)
        model.restart()
        apart = [model.advance([one]).ravel().copy() for one in ids]
    assert (together == np.stack(apart)).all()
