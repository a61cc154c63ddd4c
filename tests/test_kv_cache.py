"""The cache holds what it is given where attention looks for it, in the bytes that were counted."""

from __future__ import annotations

import numpy as np
import pytest
from naive import config, hard

from cpumix.kv_cache import BLOCK, UNLIMITED, KVCache, capacity, nbytes

HEADS, SIZE = 2, 40
SHAPE = {"num_key_value_heads": HEADS, "num_attention_heads": 4, "head_dim": SIZE}


@pytest.mark.parametrize(
    ("window", "context", "batch", "positions"),
    [
        (None, 1, 1, 64),
        (None, 64, 512, 64),
        (None, 65, 1, 128),
        (None, 4096, 512, 4096),
        (16, 4096, 1, 128),  # 16 + 1 + 64 = 81 positions
        (16, 50, 8, 64),  # never more than the context
        (4096, 4096, 512, 4096),
        (4096, 32768, 512, 4096 + 512 + 64),
    ],
)
def test_capacity(window, context, batch, positions):
    assert capacity(config(sliding_window=window), context, batch) == positions


def test_capacity_keeps_what_a_batch_still_sees():
    """While a batch is stored, the first of its queries still looks back over a whole window."""
    for window in range(1, 200, 13):
        for batch in range(1, 70, 9):
            held = capacity(config(sliding_window=window), 1 << 20, batch)
            assert held % BLOCK == 0
            # From the block of the window's first position to the batch's last.
            assert held >= (BLOCK - 1) + (window - 1) + batch


@pytest.mark.parametrize("kv", ["f16", "f32"])
@pytest.mark.parametrize("head_dim", [16, 40, 64])
@pytest.mark.parametrize("window", [None, 100])
def test_bytes_are_those_counted(kv, head_dim, window):
    shape = config(**{**SHAPE, "head_dim": head_dim}, num_hidden_layers=3, sliding_window=window)
    assert KVCache(shape, 1000, 32, kv).nbytes == nbytes(shape, 1000, 32, kv)


def test_mixtral_takes_128_kib_for_each_position():
    shape = config(num_hidden_layers=32, num_key_value_heads=8, head_dim=128)
    assert nbytes(shape, 4096, 512, "f16") == 4096 * 128 * 1024
    assert nbytes(shape, 4096, 512, "f32") == 4096 * 256 * 1024


@pytest.mark.parametrize(("kv", "kind"), [("f16", np.float16), ("f32", np.float32)])
@pytest.mark.parametrize("window", [None, 20])
def test_positions_lie_where_attention_reads_them(kv, kind, window):
    shape = config(**SHAPE, num_hidden_layers=2, sliding_window=window)
    cache = KVCache(shape, 300, 10, kv)
    k, v = (hard("random", 300, HEADS * SIZE + 5, seed) for seed in (1, 2))
    position = 0
    while position < 300:
        n = min(7, 300 - position)
        for layer in (0, 1):
            now = slice(position, position + n)
            cache.store(layer, k[now] * (1 + layer), v[now] * (1 + layer))
        cache.advance(n)
        position += n
    assert cache.position == 300
    kept = cache.capacity if window else 300
    for layer in (0, 1):
        keys, values = cache.layer(layer)
        assert keys.shape == (HEADS, cache.capacity // 16, SIZE, 16)
        assert values.shape == (HEADS, cache.capacity, 64)
        assert keys.dtype == values.dtype == (np.uint16 if kv == "f16" else np.float32)
        for p in range(300 - min(kept, 300), 300):
            slot = p % cache.capacity
            row_k, row_v = (
                (x[p, : HEADS * SIZE] * np.float32(1 + layer)).astype(kind).reshape(HEADS, SIZE)
                for x in (k, v)
            )
            assert (keys.view(kind)[:, slot // 16, :, slot % 16] == row_k).all()
            assert (values.view(kind)[:, slot, :SIZE] == row_v).all()
        assert not values[:, :, SIZE:].any()


def test_window_of_a_model_without_one():
    assert KVCache(config(), 64, 1, "f16").window == UNLIMITED
    assert KVCache(config(sliding_window=16), 64, 1, "f16").window == 16


def test_clear_starts_over():
    cache = KVCache(config(**SHAPE), 64, 8, "f32")
    k, v = (hard("random", 8, HEADS * SIZE, seed) for seed in (1, 2))
    cache.store(0, k, v)
    cache.advance(8)
    cache.clear()
    assert cache.position == 0
    cache.store(0, k[:1] * 2, v[:1] * 2)
    assert (cache.layer(0)[1][:, 0, :SIZE].ravel() == v[0] * 2).all()


def test_unused_slots_are_finite():
    """Attention weighs them with 0, and 0 x NaN would be NaN."""
    keys, values = KVCache(config(**SHAPE), 500, 8, "f32").layer(0)
    assert not keys.any()
    assert not values.any()
