"""Attention over the key-value cache equals its definition in float64."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from kv_sequences import KVSequence, store_kv
from naive import FORCED, GENERIC, SLACK, WITHOUT_JIT, U, config

from cpumix.kernels import create_backend
from cpumix.kernels.rows import Rows
from cpumix.kv.formats import UNLIMITED
from cpumix.quant.kv import KV_FORMATS, dequantize, quantize

POSITIONS = 20 if WITHOUT_JIT else 90  # more than a block of 64
SHAPES = [*product((16, 40, 64, 128), (1, 3, 4, 8))]  # head_dim, query heads to a key-value head
if FORCED:
    SHAPES = [(16, 3), (40, 1), (64, 8), (128, 4)]
if WITHOUT_JIT:
    SHAPES = [(16, 3), (40, 1)]
KV_HEADS = 2


class Conversation:
    """Random queries, keys and values of every position of one layer."""

    def __init__(self, positions: int, head_dim: int, group: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.positions, self.head_dim, self.group = positions, head_dim, group
        self.q = random.standard_normal((positions, KV_HEADS * group * head_dim), np.float32)
        self.k = 2 * random.standard_normal((positions, KV_HEADS * head_dim), np.float32)
        self.v = random.standard_normal((positions, KV_HEADS * head_dim), np.float32)
        self.scale = head_dim**-0.5

    def attention(self, e, kv, batches, window=None, context=None) -> np.ndarray:
        """Feed everything through a cache, batch by batch, and return what attention found."""
        shape = config(
            num_attention_heads=KV_HEADS * self.group,
            num_key_value_heads=KV_HEADS,
            head_dim=self.head_dim,
            sliding_window=window,
        )
        cache = KVSequence(shape, context or self.positions, max(batches), kv)
        found, first = [], 0
        for n in batches:
            now = slice(first, first + n)
            store_kv(e, cache, 0, self.k[now], self.v[now])
            q, out = Rows(n, self.q.shape[1]), Rows(n, self.q.shape[1])
            q.values[:n, : self.q.shape[1]] = self.q[now]
            e.attention(q, n, cache.view(0, n, self.scale, self.group), out)
            found.append(out.values[:n, : self.q.shape[1]])
            cache.advance(n)
            first += n
        assert first == self.positions
        return np.concatenate(found)

    def expected(self, kv, window=None) -> tuple[np.ndarray, np.ndarray]:
        """Return attention in float64, and how far float32 may be off.

        A score is a sum of head_dim products; what it is off by is what its weight is off by, in
        proportion, and so are: the difference to the maximum, rounded; e^x (2 units); a correction
        for each block of 64 (3 roundings); the sums over positions. All of it twice, for the sum
        that divides.
        """
        n, size = self.positions, self.head_dim
        q = self.q.reshape(n, KV_HEADS, self.group, size).astype(np.float64)
        k, v = (kept(x.reshape(n, KV_HEADS, size), kv).astype(np.float64) for x in (self.k, self.v))
        scores = np.einsum("tkgd,pkd->kgtp", q, k) * self.scale
        sizes = np.einsum("tkgd,pkd->kgtp", np.abs(q), np.abs(k)) * self.scale
        t, p = np.arange(n)[:, None], np.arange(n)[None, :]
        seen = (p <= t) & (p > t - (window or UNLIMITED))
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        spread = 2 * np.where(seen, np.abs(scores), 0).max()
        roundings = (size + 2) * sizes.max() + spread + 2 * 2 + 3 * (n // 64 + 1) + n + 16
        parts = (np.einsum("kgtp,pkd->tkgd", w, x) for w, x in ((weights, v), (weights, np.abs(v))))
        found, size_of_terms = (x.reshape(n, -1) for x in parts)
        return found, SLACK * 2 * roundings * U * size_of_terms


def kept(x, kv) -> np.ndarray:
    """Return what a cache of this format gives back of vectors (.., head_dim)."""
    return dequantize(quantize(x)) if kv == "int8" else x.astype(KV_FORMATS[kv])


@pytest.fixture
def e():
    return create_backend(1)


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize(("head_dim", "group"), SHAPES)
def test_attention_equals_definition(e, head_dim, group, kv):
    talk = Conversation(POSITIONS, head_dim, group)
    expected, bound = talk.expected(kv)
    found = talk.attention(e, kv, [1, POSITIONS - 9, 3, 1, 1, 3])
    assert (np.abs(found - expected) <= bound).all()
    assert bound.max() < 2e-3  # the bound says something


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize("sign", [1, -1])
def test_key_beyond_the_cache_is_not_passed_over(e, kv, sign):
    """Whoever sees it gets NaN, whatever the sign of its scores; earlier positions do not."""
    talk = Conversation(POSITIONS, 16, 2)
    at = POSITIONS // 2
    talk.k[at, :16] = sign * np.inf
    with np.errstate(over="ignore", invalid="ignore"):
        found = talk.attention(e, kv, [1] * POSITIONS)
    assert np.isfinite(found[:at]).all()
    assert np.isnan(found[at:, : 2 * 16]).all()
    assert np.isfinite(found[:, 2 * 16 :]).all()


@pytest.mark.parametrize("kv", KV_FORMATS)
@pytest.mark.parametrize(("head_dim", "group"), SHAPES)
def test_batch_equals_one_by_one(e, head_dim, group, kv):
    talk = Conversation(POSITIONS, head_dim, group)
    alone = talk.attention(e, kv, [1] * POSITIONS)
    for batches in ([POSITIONS], [2, 7, 9, POSITIONS - 18]):
        assert (talk.attention(e, kv, batches) == alone).all()


@pytest.mark.parametrize("kv", KV_FORMATS)
def test_threads_change_no_bit(kv):
    talk = Conversation(POSITIONS, 40, 4)
    batches = [POSITIONS - 8, 5, 3]
    one, two = (talk.attention(create_backend(n), kv, batches) for n in (1, 2))
    assert (one == two).all()


@pytest.mark.parametrize("window", [1, 5, 64, 70])
@pytest.mark.parametrize("kv", KV_FORMATS)
def test_window(e, kv, window):
    talk = Conversation(POSITIONS, 16, 3)
    expected, bound = talk.expected(kv, window)
    found = talk.attention(e, kv, [POSITIONS - 9, 1, 3, 5], window)
    assert (np.abs(found - expected) <= bound).all()
    assert (found == talk.attention(e, kv, [1] * POSITIONS, window)).all()


@pytest.mark.skipif(WITHOUT_JIT, reason="minutes in plain Python")
@pytest.mark.parametrize(("window", "kv"), [(16, "f16"), (60, "int8"), (100, "f16")])
def test_rolling_cache_wraps_around(e, window, kv):
    """A context far larger than the cache: slots are overwritten, results are not."""
    talk = Conversation(500, 40, 2)
    expected, bound = talk.expected(kv, window)
    batches = [7, 1, *[8] * 60, 1, 4, 7]
    found = talk.attention(e, kv, batches, window, context=100_000)
    assert (np.abs(found - expected) <= bound).all()
    assert (found == talk.attention(e, kv, [1] * 500, window, context=100_000)).all()
    assert (found == talk.attention(e, kv, [500], window)).all()


@pytest.mark.skipif(WITHOUT_JIT, reason="minutes in plain Python")
def test_long_conversation(e):
    talk = Conversation(700, 64, 4)
    expected, bound = talk.expected("f16")
    found = talk.attention(e, "f16", [512, 180, *[1] * 8])
    assert (np.abs(found - expected) <= bound).all()


def test_scores_far_apart(e):
    """One key far above all others takes all the weight; e^x of the others vanishes."""
    talk = Conversation(POSITIONS, 16, 1)
    talk.k *= 1000
    found = talk.attention(e, "f32", [POSITIONS])
    q = talk.q.reshape(-1, KV_HEADS, 16)
    scores = np.einsum("tkd,pkd->ktp", q, talk.k.reshape(-1, KV_HEADS, 16)) * talk.scale
    scores = np.where(np.tri(POSITIONS, dtype=bool), scores, -np.inf)
    top = np.sort(scores, -1)
    with np.errstate(invalid="ignore"):
        clear = top[..., -1] - top[..., -2] > 100
    clear[:, 0] = True
    best = talk.v.reshape(-1, KV_HEADS, 16)[scores.argmax(-1), np.arange(KV_HEADS)[:, None]]
    found = found.reshape(-1, KV_HEADS, 16).transpose(1, 0, 2)
    assert clear.mean() > 0.8
    assert (found == best)[clear].all()


@pytest.mark.parametrize("kv", KV_FORMATS)
def test_nan_stays(e, kv):
    """A position that went wrong spoils those after it, not those before."""
    talk = Conversation(9, 16, 3)
    for x in (talk.q, talk.k, talk.v):
        x[4, : x.shape[1] // KV_HEADS] = np.nan  # the first key-value head
    with np.errstate(invalid="ignore"):
        found = talk.attention(e, kv, [1] * 9).reshape(9, KV_HEADS, -1)
    assert np.isfinite(found[:4]).all()
    assert np.isfinite(found[:, 1]).all()
    assert np.isnan(found[4:, 0]).all()


def test_nothing_beside_the_result_is_written(e):
    talk = Conversation(9, 40, 3)
    cache = KVSequence(config(num_key_value_heads=KV_HEADS, head_dim=40), 9, 9, "f16")
    store_kv(e, cache, 0, talk.k, talk.v)
    columns = talk.q.shape[1]
    q, out = Rows(9, columns), Rows(9, columns)
    q.values[:9, :columns] = talk.q
    e.attention(q, 5, cache.view(0, 5, talk.scale, 3), out)
    assert np.abs(out.values[:5, :columns]).min() > 0
    assert not out.values[5:].any()
    assert not out.values[:, columns:].any()


@pytest.mark.skipif(GENERIC, reason="has no memory of its own")
def test_scratch_memory_grows(e):
    """More query heads to a key-value head than any product needs memory for."""
    talk = Conversation(3, 128, 64)
    expected, bound = talk.expected("f16")
    assert (np.abs(talk.attention(e, "f16", [2, 1]) - expected) <= bound).all()
