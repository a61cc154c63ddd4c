"""The beginning of a text is found again, to the token, and leaves when room is needed."""

from __future__ import annotations

import numpy as np
import pytest
from naive import config

from cpumix.kv.pool import BlockPool
from cpumix.kv.prefix import PrefixCache
from cpumix.kv.table import BlockTable

SHAPE = {"num_key_value_heads": 1, "num_attention_heads": 1, "head_dim": 16}
TEXT = np.random.default_rng(0).integers(0, 1000, 1000).tolist()


@pytest.fixture
def pool():
    return BlockPool(config(**SHAPE), 8, "f16")


@pytest.fixture
def prefix(pool):
    return PrefixCache(pool)


def leave(pool, prefix, ids, salt=b""):
    """Let a text of these tokens be computed, and end; return its blocks."""
    table = BlockTable(pool, -(-len(ids) // 64))
    table.prepare(0, len(ids))
    prefix.register(table.blocks, ids, 0, salt)
    table.close()
    return table.blocks


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130, 192, 200])
def test_what_was_computed_is_found_to_the_token(pool, prefix, length):
    blocks = leave(pool, prefix, TEXT[:length])
    assert pool.held == 0
    match = prefix.match(TEXT[:400])
    assert match.tokens == length
    assert match.blocks == blocks[: length // 64]
    assert len(match.copied) == (length % 64 > 0)
    assert pool.available == 8


def test_one_token_is_left_to_compute(pool, prefix):
    leave(pool, prefix, TEXT[:128])
    match = prefix.match(TEXT[:128])
    assert (len(match.blocks), match.tokens) == (1, 127)


def test_a_text_that_differs_shares_what_comes_before(pool, prefix):
    blocks = leave(pool, prefix, TEXT[:200])
    other = [*TEXT[:100], 1000, *TEXT[101:200]]
    match = prefix.match(other)
    assert match.blocks == blocks[:1]
    assert (match.tokens, match.copied) == (100, (blocks[1],))


def test_the_same_tokens_behind_others_are_not_the_same(pool, prefix):
    leave(pool, prefix, TEXT[:128])
    assert prefix.match(TEXT[64:200]).tokens == 0


def test_salt_keeps_texts_apart(pool, prefix):
    leave(pool, prefix, TEXT[:128], b"a")
    assert prefix.match(TEXT[:200], b"b").tokens == 0
    assert prefix.match(TEXT[:200]).tokens == 0
    assert prefix.match(TEXT[:200], b"a").tokens == 128


def test_least_recently_used_leaves_first_and_its_end_before_its_beginning(pool, prefix):
    leave(pool, prefix, TEXT[:256])
    leave(pool, prefix, TEXT[500:756])
    BlockTable(pool, 2).close()
    assert prefix.match(TEXT[:300]).tokens == 128
    assert prefix.match(TEXT[500:800]).tokens == 256


def test_blocks_that_are_held_stay(pool, prefix):
    leave(pool, prefix, TEXT[:256])
    match = prefix.match(TEXT[:300])
    holder = BlockTable(pool, 1, match.blocks)
    taken = BlockTable(pool, pool.available)
    assert prefix.match(TEXT[:300]).tokens == 256
    assert pool.available == 0
    holder.close()
    taken.close()
    assert pool.available == 8


def test_two_texts_that_compute_the_same_keep_it_once(pool, prefix):
    tables = [BlockTable(pool, 2) for _ in range(2)]
    for table in tables:
        table.prepare(0, 128)
        prefix.register(table.blocks, TEXT[:128], 0)
    for table in tables:
        table.close()
    assert pool.cached == 2
    assert prefix.match(TEXT[:200]).blocks == tables[0].blocks


def test_window_needs_only_what_it_sees():
    pool = BlockPool(config(**SHAPE, sliding_window=70), 8, "f16")
    prefix = PrefixCache(pool)
    table = BlockTable(pool, 3)
    for first in range(0, 384, 64):
        table.prepare(first, 64)
        prefix.register(table.blocks, TEXT[: first + 64], first // 64)
    table.close()
    BlockTable(pool, 5)  # the blocks that left the window first are gone
    match = prefix.match(TEXT[:500])
    assert match.tokens == 384
    assert match.blocks[:4] == [-1] * 4
    again = BlockTable(pool, 0, match.blocks)
    assert again.slots(315, 69) == table.slots(315, 69)
