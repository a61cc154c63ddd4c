"""Keys and values are kept where attention looks for them, rounded as defined."""

from __future__ import annotations

import numpy as np
import pytest
from kv_sequences import KVSequence, store_kv
from naive import KINDS, config, hard

from cpumix.kernels import create_backend
from cpumix.kv.table import BlockTable
from cpumix.quant.kv import KV_FORMATS, quantize, to_f16

HEADS, SIZE = 2, 40
SHAPE = {"num_key_value_heads": HEADS, "num_attention_heads": 4, "head_dim": SIZE}
POSITIONS = 150


@pytest.fixture
def e():
    return create_backend(1)


def kept(x, kv) -> tuple[np.ndarray, np.ndarray | None]:
    """Return what a cache of this format holds of vectors (.., head_dim): numbers, and scales."""
    return tuple(quantize(x)) if kv == "int8" else (x.astype(KV_FORMATS[kv]), None)


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize("window", [None, 20])
def test_positions_lie_where_attention_reads_them(e, kv, window):
    cache = KVSequence(
        config(**SHAPE, num_hidden_layers=2, sliding_window=window), POSITIONS, 7, kv
    )
    k, v = (hard("random", POSITIONS, HEADS * SIZE + 5, seed) for seed in (1, 2))
    for first in range(0, POSITIONS, 7):
        now = slice(first, first + 7)
        for layer in (0, 1):
            store_kv(e, cache, layer, k[now] * (1 + layer), v[now] * (1 + layer))
        cache.advance(len(k[now]))
    assert cache.position == POSITIONS
    capacity = cache.pool.layer(0)[1].shape[1]
    seen = window or POSITIONS
    for layer in (0, 1):
        keys, values, scales = cache.pool.layer(layer)
        assert keys.shape == (HEADS, capacity // 16, SIZE, 16)
        assert values.shape == (HEADS, capacity, 64)
        assert scales.shape == (HEADS, 2, capacity if kv == "int8" else 0)
        if kv == "f16":
            keys, values = keys.view(np.float16), values.view(np.float16)
        for p in range(POSITIONS - seen, POSITIONS):
            (slot,) = cache.table.slots(p, 1)
            rows = (
                x[p, : HEADS * SIZE].reshape(HEADS, SIZE) * np.float32(1 + layer) for x in (k, v)
            )
            (key, key_scale), (value, value_scale) = (kept(row, kv) for row in rows)
            assert (keys[:, slot // 16, :, slot % 16] == key).all()
            assert (values[:, slot, :SIZE] == value).all()
            if kv == "int8":
                assert (scales.view(np.float16)[:, 0, slot] == key_scale).all()
                assert (scales.view(np.float16)[:, 1, slot] == value_scale).all()
        assert not values[:, :, SIZE:].any()


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_hard_numbers_are_rounded_as_defined(e, kind, kv):
    x = hard(kind, 20, HEADS * SIZE, 3)
    cache = KVSequence(config(**SHAPE), 20, 20, kv)
    with np.errstate(over="ignore", invalid="ignore"):
        store_kv(e, cache, 0, x[::-1].copy(), x)
        numbers, scale = kept(x.reshape(20, HEADS, SIZE), kv)
    values, scales = cache.pool.layer(0)[1:]
    if kv == "f16":
        values = values.view(np.float16)
    np.testing.assert_array_equal(values[:, :20, :SIZE], numbers.transpose(1, 0, 2))
    if scale is not None:
        np.testing.assert_array_equal(scales.view(np.float16)[:, 1, :20], scale.T)


def test_float16_holds_no_more_than_65504(e):
    """Infinity would not do: a key's score could be minus infinity, and the position be missed."""
    x = hard("random", 2, HEADS * SIZE, 4)
    largest = np.float32(65519.996)
    x[1, :4] = largest, -largest, 65520, -65520
    cache = KVSequence(config(**SHAPE), 2, 2, "f16")
    with np.errstate(over="ignore", invalid="ignore"):
        store_kv(e, cache, 0, x, x)
    keys, values = (part.view(np.float16) for part in cache.pool.layer(0)[:2])
    expected = [65504, -65504, np.nan, np.nan]
    np.testing.assert_array_equal(keys[0, 0, :4, 1], expected)
    np.testing.assert_array_equal(values[0, 1, :4], expected)
    np.testing.assert_array_equal(to_f16(x[1, :4]), expected)
    assert np.isfinite(keys[:, 0, :, 0]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(e, bad):
    x = hard("random", 3, HEADS * SIZE, 4)
    x[1, 7] = bad
    cache = KVSequence(config(**SHAPE), 3, 3, "int8")
    with np.errstate(invalid="ignore"):
        store_kv(e, cache, 0, x, x)
    _, values, scales = cache.pool.layer(0)
    scale = scales.view(np.float16)[:, :, :3]
    assert not values[0, 1].any()
    assert not np.isfinite(scale[0, :, 1]).any()
    assert np.isfinite(scale[1]).all()
    assert np.isfinite(scale[0][:, [0, 2]]).all()


def test_block_that_comes_back_is_written_anew(e):
    """Attention weighs unused slots with 0: what an earlier sequence left there must be finite."""
    cache = KVSequence(config(**SHAPE), 64, 8, "f32")
    k, v = (hard("random", 8, HEADS * SIZE, seed) for seed in (1, 2))
    v[3] = np.nan
    store_kv(e, cache, 0, k, v)
    cache.table.close()
    cache.table = BlockTable(cache.pool, 1)
    store_kv(e, cache, 0, k[:1] * 2, v[:1] * 2)
    values = cache.pool.layer(0)[1]
    assert (values[:, 0, :SIZE].ravel() == v[0] * 2).all()
    assert not values[:, 1:].any()
