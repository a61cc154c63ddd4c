"""The cache has the bytes that were counted, and room for what a batch still sees."""

from __future__ import annotations

import pytest
from naive import config

from cpumix.kv.cache import UNLIMITED, KVCache, capacity, nbytes
from cpumix.quant.kv import KV_BLOCK, KV_FORMATS

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
            assert held % KV_BLOCK == 0
            # From the block of the window's first position to the batch's last.
            assert held >= (KV_BLOCK - 1) + (window - 1) + batch


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize("head_dim", [16, 40, 64])
@pytest.mark.parametrize("window", [None, 100])
def test_bytes_are_those_counted(kv, head_dim, window):
    shape = config(**{**SHAPE, "head_dim": head_dim}, num_hidden_layers=3, sliding_window=window)
    assert KVCache(shape, 1000, 32, kv).nbytes == nbytes(shape, 1000, 32, kv)


def test_mixtral_takes_128_kib_for_each_position():
    shape = config(num_hidden_layers=32, num_key_value_heads=8, head_dim=128)
    assert nbytes(shape, 4096, 512, "f16") == 4096 * 128 * 1024
    assert nbytes(shape, 4096, 512, "f32") == 4096 * 256 * 1024
    assert nbytes(shape, 4096, 512, "int8") == 4096 * 65 * 1024  # a scale to 128 codes


def test_window_of_a_model_without_one():
    assert KVCache(config(), 64, 1, "f16").window == UNLIMITED
    assert KVCache(config(sliding_window=16), 64, 1, "f16").window == 16


def test_clear_starts_over():
    cache = KVCache(config(**SHAPE), 64, 8, "f32")
    cache.advance(8)
    cache.clear()
    assert cache.position == 0


def test_unused_slots_are_finite():
    """Attention weighs them with 0, and 0 x NaN would be NaN."""
    for kv in KV_FORMATS:
        for part in KVCache(config(**SHAPE), 500, 8, kv).layer(0):
            assert not part.any()
