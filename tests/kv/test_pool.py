"""The pool has the bytes that were counted, and every block has the holders that it is said to."""

from __future__ import annotations

import numpy as np
import pytest
from naive import config

from cpumix.errors import ConfigError
from cpumix.kv.formats import UNLIMITED, count_blocks, find_format, nbytes
from cpumix.kv.pool import BlockPool
from cpumix.kv.table import BlockTable
from cpumix.quant.kv import KV_BLOCK, KV_FORMATS
from cpumix.quant.precision import PRECISIONS

HEADS, SIZE = 2, 40
SHAPE = {"num_key_value_heads": HEADS, "num_attention_heads": 4, "head_dim": SIZE}


@pytest.mark.parametrize(
    ("window", "tokens", "chunk", "blocks"),
    [
        (None, 1, 1, 1),
        (None, 64, 512, 1),
        (None, 65, 1, 2),
        (None, 4096, 512, 64),
        (16, 4096, 1, 2),
        (16, 50, 8, 1),  # never more than the tokens
        (4096, 4096, 512, 64),
        (4096, 32768, 512, 73),
    ],
)
def test_blocks_of_a_sequence(window, tokens, chunk, blocks):
    assert count_blocks(config(sliding_window=window), tokens, chunk) == blocks


def test_window_keeps_what_a_chunk_still_sees():
    """While a chunk is stored, the first of its queries still looks back over a whole window."""
    for window in range(1, 200, 13):
        for chunk in range(1, 70, 9):
            held = count_blocks(config(sliding_window=window), 1 << 20, chunk) * KV_BLOCK
            # From the block of the window's first position to the chunk's last.
            assert held >= (KV_BLOCK - 1) + (window - 1) + chunk


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize("head_dim", [16, 40, 64])
@pytest.mark.parametrize("window", [None, 100])
def test_bytes_are_those_counted(kv, head_dim, window):
    shape = config(**{**SHAPE, "head_dim": head_dim}, num_hidden_layers=3, sliding_window=window)
    pool = BlockPool(shape, 2 * count_blocks(shape, 1000, 32), kv)
    assert pool.nbytes == nbytes(shape, 1000, 32, kv, parallel=2)


def test_mixtral_takes_128_kib_for_each_position():
    shape = config(num_hidden_layers=32, num_key_value_heads=8, head_dim=128)
    assert nbytes(shape, 4096, 512, "f16") == 4096 * 128 * 1024
    assert nbytes(shape, 4096, 512, "f32") == 4096 * 256 * 1024
    assert nbytes(shape, 4096, 512, "int8") == 4096 * 65 * 1024  # a scale to 128 codes


def test_format_that_is_none():
    assert find_format("auto", PRECISIONS["int4"]) == "f16"
    assert find_format("auto", PRECISIONS["bf16"]) == "f32"
    with pytest.raises(ConfigError, match=r'KV cache: expected one of .*, found "q4"'):
        find_format("q4", PRECISIONS["int4"])


def test_window_of_a_model_without_one():
    assert BlockPool(config(), 1, "f16").window == UNLIMITED
    assert BlockPool(config(sliding_window=16), 1, "f16").window == 16


def test_unused_slots_are_finite():
    """Attention weighs them with 0, and 0 x NaN would be NaN."""
    for kv in KV_FORMATS:
        for part in BlockPool(config(**SHAPE), 8, kv).layer(0):
            assert not part.any()


def test_blocks_of_a_sequence_lie_side_by_side_where_they_can():
    pool = BlockPool(config(**SHAPE), 10, "f16")
    first, second = BlockTable(pool, 3), BlockTable(pool, 4)
    assert (first.blocks, second.blocks) == ([0, 1, 2], [3, 4, 5, 6])
    first.close()
    assert BlockTable(pool, 2).blocks == [0, 1]
    assert BlockTable(pool, 3).blocks == [7, 8, 9]
    assert BlockTable(pool, 1).blocks == [2]
    assert pool.available == 0


def test_blocks_are_scattered_where_they_must_be():
    pool = BlockPool(config(**SHAPE), 5, "f16")
    tables = [BlockTable(pool, 1) for _ in range(5)]
    for i in (0, 2, 4):
        tables[i].close()
    assert BlockTable(pool, 3).blocks == [0, 2, 4]


def test_shared_blocks_stay_until_their_last_holder_leaves():
    pool = BlockPool(config(**SHAPE), 4, "f16")
    first = BlockTable(pool, 2)
    second = BlockTable(pool, 1, shared=first.blocks)
    assert second.blocks == [0, 1, 2]
    first.close()
    assert (pool.available, pool.held) == (1, 3)
    second.close()
    assert (pool.available, pool.held, pool.reserved) == (4, 0, 0)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_window_gives_blocks_back(chunk):
    shape = config(**SHAPE, sliding_window=100)
    blocks = count_blocks(shape, 5000, chunk)
    pool = BlockPool(shape, blocks, "int8")
    table = BlockTable(pool, blocks)
    for position in range(0, 5000 - chunk, chunk):
        table.prepare(position, chunk)
        assert pool.held <= blocks
        assert pool.held + pool.reserved == blocks
        seen = np.arange(max(0, position - 99), position + chunk)
        assert len({*table.slots(int(seen[0]), len(seen))}) == len(seen)
    table.close()
    assert (pool.held, pool.reserved) == (0, 0)


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize("count", [1, 16, 37, 64])
def test_copy_takes_the_first_positions_only(kv, count):
    pool = BlockPool(config(**SHAPE, num_hidden_layers=2), 2, kv)
    random = np.random.default_rng(0)
    for layer in range(2):
        for part in pool.layer(layer):
            part[:] = random.integers(0, 100, part.shape)
    keys, values, scales = pool.layer(1)
    before = keys[:, 4:].copy()
    pool._used[1] = True
    pool.clear(1)
    pool.copy(0, 1, count)
    for p in range(64):
        same = (keys[:, 4 + p // 16, :, p % 16] == keys[:, p // 16, :, p % 16]).all()
        untouched = (keys[:, 4 + p // 16, :, p % 16] == before[:, p // 16, :, p % 16]).all()
        assert (same, untouched) == (p < count, p >= count)
    assert (values[:, 64 : 64 + count] == values[:, :count]).all()
    assert not values[:, 64 + count :].any()
    assert (scales[:, :, 64 : 64 + count] == scales[:, :, :count]).all()
    assert not scales[:, :, 64 + count :].any()
