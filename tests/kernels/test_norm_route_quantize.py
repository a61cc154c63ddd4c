"""Norm, quantization, routing, rotation and sums of rows equal their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from kv_sequences import KVSequence
from naive import (
    GENERIC,
    KINDS,
    SLACK,
    WITHOUT_JIT,
    U,
    config,
    hard,
    headers,
    nothing,
    quantize,
    rows_of,
)

from cpumix.kernels import create_backend
from cpumix.kernels.operands import Matmul, MatmulGroup, Residual, TiledMatrix
from cpumix.kernels.rows import Rows
from cpumix.quant import FORMATS, activations

COLUMNS = (1, 16, 33, 40) if WITHOUT_JIT else (1, 16, 31, 32, 33, 40, 544, 4096)
COUNTS = (4, 7)  # rows, the last of them left alone: few run on one thread, many on all


@pytest.fixture(params=[1, 2], ids=["1-thread", "2-threads"])
def e(request):
    return create_backend(request.param)


def padded(weight: np.ndarray) -> np.ndarray:
    out = np.zeros(-(-len(weight) // 32) * 32, np.float32)
    out[: len(weight)] = weight
    return out


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e6])
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("count", COUNTS)
def test_norm(e, columns, size, count):
    """A sum of squares in n roundings counts half, under a root; five operations follow."""
    x = rows_of(hard("random", count, columns, seed=1) * np.float32(size))
    weight, out, eps = hard("random", 1, columns, seed=2)[0], Rows(count, columns), 1e-5
    e.norm(x, nothing(count), padded(weight), eps, count - 1, out)
    wide = x.values[:count, :columns].astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * weight
    roundings = (columns if GENERIC else columns / 16 + 16) / 2 + 5
    off = np.abs(out.values[: count - 1, :columns] - expected[:-1])
    assert (off <= SLACK * roundings * U * np.abs(expected[:-1])).all()
    assert not out.values[count - 1 :].any()
    assert not out.values[:, columns:].any()
    again = Rows(count, columns)
    again.values[:] = out.values
    quantize(e, again, count - 1)
    assert (out.codes == again.codes).all()
    assert (out.headers == again.headers).all()


def test_norm_of_zeros_and_of_nan(e):
    x, out = Rows(3, 40), Rows(3, 40)
    x.values[1, 3] = np.nan
    e.norm(x, nothing(3), padded(np.ones(40, np.float32)), 1e-5, 3, out)
    assert not out.values[[0, 2]].any()
    assert np.isnan(out.values[1, :40]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("count", COUNTS)
def test_codes_equal_definition(e, columns, kind, count):
    values = hard(kind, count, columns, seed=3)
    values[0] = 1.5  # halves of the scale: ties
    values[0, 0] = 127
    expected, x = activations.quantize(values), Rows(count, columns)
    x.values[:count, :columns] = values
    quantize(e, x, count - 1)
    fields = (x.codes, x.scale, x.start)
    if not GENERIC:
        fields, expected = (x.codes, x.headers), (expected.codes, headers(*expected[1:]))
    for found, right in zip(fields, expected, strict=True):
        assert found.dtype == right.dtype
        assert (found[: count - 1, : right.shape[1]] == right[:-1]).all()
        assert not found[count - 1 :].any()
        assert not found[:, right.shape[1] :].any()


BAD = [np.nan, np.inf, -np.inf, np.uint32(0x7FFFFFFF).view(np.float32)]  # the last: all bits set


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("format", ["q8", "q4", "bf16"])
@pytest.mark.parametrize("count", [1, 3, 9, 40])
def test_products_of_what_is_no_number_are_nan(e, count, format, bad):
    """Also where the weights are zeros: rounded to 8 bits, a NaN must not vanish."""
    weights = np.zeros((16, 64), np.float32)
    matrix = TiledMatrix(format, FORMATS[format].quantize(weights))
    for place in (0, 17, 31, 32, 63):
        x = Rows(count, 64)
        x.values[:count, :64] = hard("random", count, 64, seed=1)
        x.values[count - 1, place] = bad
        out = np.zeros((count, 16), np.float32)
        with np.errstate(invalid="ignore"):
            e.multiply(MatmulGroup([Matmul(matrix, x, 0, count, out)], quantize_inputs=True))
        assert np.isnan(out[count - 1]).all()
        assert not out[: count - 1].any()


@pytest.mark.parametrize("bad", BAD)
def test_definition_of_codes_makes_blocks_nan(bad):
    x = hard("random", 2, 64, seed=1)
    x[0, 40] = bad
    found = activations.quantize(x)
    assert np.isnan(found.scale).tolist() == [[False, True], [False, False]]
    assert not found.codes[0, 32:].any()


@pytest.mark.parametrize("norm_topk", [True, False])
@pytest.mark.parametrize("bad", [0, 3, 7])
def test_router_that_is_no_number_makes_all_weights_nan(e, bad, norm_topk):
    n, k, experts = 6, 33, 8
    x, router = rows_of(hard("random", n, k, seed=1)), np.zeros((k, 16), np.float32)
    router[:, :experts] = hard("random", k, experts, seed=2)
    router[5, bad] = np.nan
    topk_ids, weights = np.zeros((n, 2), np.int32), np.zeros((n, 2), np.float32)
    with np.errstate(invalid="ignore"):
        e.route(x, router, experts, n, topk_ids, weights, norm_topk)
    assert np.isnan(weights).all()
    assert ((0 <= topk_ids) & (topk_ids < experts)).all()


@pytest.mark.parametrize("experts", [1, 2, 3, 8, 16, 17, 20])
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_route_chooses_best_first_and_lower_of_equals(e, experts, top_k):
    """Small integers make logits exact and often equal; all are negative, below the padding's 0."""
    top_k, k, n = min(top_k, experts), 33, 40
    random = np.random.default_rng(experts)
    x, router = Rows(n, k), np.zeros((k, -(-experts // 16) * 16), np.float32)
    x.values[:n, :k] = random.integers(1, 3, (n, k))
    router[:, :experts] = random.integers(-1, 1, (k, experts))
    topk_ids, share = np.full((n + 1, top_k), -9, np.int32), np.full((n + 1, top_k), -9, np.float32)
    e.route(x, router, experts, n, topk_ids, share)
    logits = x.values[:n, :k].astype(np.float64) @ router[:, :experts]
    expected = np.argsort(-logits, axis=-1, kind="stable")[:, :top_k]
    assert (topk_ids[:n] == expected).all()
    best = np.take_along_axis(logits, expected, -1)
    weights = np.exp(best - best[:, :1])
    weights /= weights.sum(-1, keepdims=True)
    assert np.abs(share[:n] - weights).max() <= SLACK * (2 + 3 + 1) * U  # e^x, its sum, a quotient
    assert (topk_ids[n] == -9).all()
    assert (share[n] == -9).all()
    ties = (np.sort(logits)[:, 1:] == np.sort(logits)[:, :-1]).any() if experts > 1 else True
    assert ties


def test_route_weighs_among_all_experts_if_asked(e):
    n, k, experts, top_k = 9, 33, 20, 3
    x, router = rows_of(hard("random", n, k, seed=1)), np.zeros((k, 32), np.float32)
    router[:, :experts] = hard("random", k, experts, seed=2) / np.float32(k**0.5)
    normed, topk_ids = np.zeros((n, top_k), np.float32), np.zeros((n, top_k), np.int32)
    e.route(x, router, experts, n, topk_ids, normed)
    share = np.zeros((n, top_k), np.float32)
    e.route(x, router, experts, n, topk_ids, share, False)
    logits = x.values[:n, :k].astype(np.float64) @ router[:, :experts]
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.take_along_axis(weights, topk_ids.astype(np.int64), -1)
    bound = 2 * SLACK * (k + 1) * U * (np.abs(x.values[:n, :k]) @ np.abs(router)).max()
    assert np.abs(share / expected - 1).max() <= 2 * bound + (experts + 4) * U
    assert (share.sum(-1) < 0.9).all()
    assert np.abs(normed / (expected / expected.sum(-1, keepdims=True)) - 1).max() <= 2 * bound


def test_route_scores_add_in_float32(e):
    k = 33 if WITHOUT_JIT else 4096
    x, router = rows_of(hard("random", 9, k, seed=1)), np.zeros((k, 16), np.float32)
    router[:, :8] = hard("random", k, 8, seed=2) / np.float32(k**0.5)
    topk_ids, share = np.zeros((9, 8), np.int32), np.zeros((9, 8), np.float32)
    e.route(x, router, 8, 9, topk_ids, share)
    wide = x.values[:9, :k].astype(np.float64)
    bound = SLACK * (k + 1) * U * (np.abs(wide) @ np.abs(router)).max()
    logits = np.take_along_axis(wide @ router, topk_ids.astype(np.int64), -1)
    assert np.abs(np.diff(np.log(share)) - np.diff(logits)).max() < 2 * bound + 20 * U
    assert (np.diff(logits) <= 2 * bound).all()


@pytest.mark.parametrize("queries", [4, 1])
def test_queries_and_keys_turn_with_their_positions(e, queries):
    kv_heads, group, size, n = 2, 3, 40, 4
    q, k, v = (
        rows_of(hard("random", n + 1, heads * size, seed=heads))
        for heads in (kv_heads * group, kv_heads, kv_heads)
    )
    before = q.values.copy(), k.values.copy(), v.values.copy()
    angle = hard("random", n, size // 2, seed=2)
    cos, sin = np.cos(angle), np.sin(angle)
    shape = {"num_key_value_heads": kv_heads, "num_attention_heads": kv_heads * group}
    view = KVSequence(config(**shape, head_dim=size), 64, 64, "f32").view(0, n, 1.0, group)
    e.store_kv(q, k, v, (cos, sin), n, queries, view)
    late = slice(n - queries, n)
    for x, was, heads, c, s in (
        (q, before[0], kv_heads * group, cos[late], sin[late]),
        (k, before[1], kv_heads, cos, sin),
    ):
        rows, columns = len(c), heads * size
        halves = was[:rows, :columns].reshape(rows, heads, 2, size // 2)
        pairs = halves[:, :, 0] + 1j * halves[:, :, 1].astype(np.float64)
        expected = pairs * (c + 1j * s)[:, None]
        found = x.values[:rows, :columns].reshape(rows, heads, 2, size // 2)
        bound = SLACK * 2 * U * 2 * np.abs(pairs)  # two products and a sum, each rounded
        assert (np.abs(found[:, :, 0] - expected.real) <= bound).all()
        assert (np.abs(found[:, :, 1] - expected.imag) <= bound).all()
        assert (x.values[rows:] == was[rows:]).all()
        assert (x.values[:, columns:] == was[:, columns:]).all()
    assert (v.values == before[2]).all()
    kept = view.keys[:, 0, :, :n].transpose(2, 0, 1).reshape(n, -1)
    assert (kept == k.values[:n, : kv_heads * size]).all()


@pytest.mark.parametrize(("experts", "slots"), [(1, 1), (3, 3), (8, 2), (20, 5)])
@pytest.mark.parametrize("n", [1, 2, 40])
def test_pairs_are_sorted_by_expert_and_then_by_token(e, experts, slots, n):
    random = np.random.default_rng(experts)
    topk_ids = np.stack([random.permutation(experts)[:slots] for _ in range(n + 1)]).astype(
        np.int32
    )
    expert_offsets, tokens = np.full(experts + 1, -9), np.full((n + 1) * slots, -9)
    places = np.full((n + 1, slots), -9)
    e.sort_by_expert(topk_ids, n, expert_offsets, tokens, places)
    order = np.argsort(topk_ids[:n].ravel(), kind="stable")
    assert (tokens[: n * slots] == order // slots).all()
    assert (places[:n].ravel()[order] == np.arange(n * slots)).all()
    counts = np.bincount(topk_ids[:n].ravel(), minlength=experts)
    assert (expert_offsets == np.concatenate([[0], np.cumsum(counts)])).all()
    assert (tokens[n * slots :] == -9).all()
    assert (places[n:] == -9).all()


@pytest.mark.parametrize("n", [3, 6])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_norm_is_of_what_has_been_added(e, slots, n):
    columns = 40
    x, outputs = (rows_of(hard("random", rows, columns, seed=rows)) for rows in (n + 1, n * slots))
    before, random = x.values.copy(), np.random.default_rng(0)
    places = random.permutation(n * slots).reshape(n, slots)
    share = random.random((n + 1, slots)).astype(np.float32)
    weight, out, again = padded(hard("random", 1, columns, seed=2)[0]), Rows(n, 40), Rows(n, 40)
    e.norm(x, Residual(outputs, places, share), weight, 1e-5, n, out)
    terms = share[:n, :, None] * outputs.values.astype(np.float64)[places]
    expected = before[:n] + terms.sum(1)
    size = np.abs(before[:n]) + np.abs(terms).sum(1)
    assert (np.abs(x.values[:n] - expected) <= SLACK * (slots + 1) * U * size).all()
    assert (x.values[n:] == before[n:]).all()
    assert not x.values[:, columns:].any()
    e.norm(x, nothing(n), weight, 1e-5, n, again)
    assert (out.values == again.values).all()
    assert (out.codes == again.codes).all()


def test_whole_rows_are_added_exactly(e):
    x, update = (rows_of(hard("random", 6, 40, seed)) for seed in (1, 2))
    expected = x.values.copy()
    expected[:5, :40] += update.values[:5, :40]
    each = Residual(update, np.arange(6)[:, None], np.ones((6, 1), np.float32))
    e.norm(x, each, padded(np.ones(40, np.float32)), 1e-5, 5, Rows(5, 40))
    assert (x.values == expected).all()


@pytest.mark.parametrize("codes", [False, True])
def test_gather_takes_values_or_codes(codes):
    source, index = rows_of(hard("random", 7, 40, seed=1)), np.array([3, 3, 0, 6])
    out = Rows(5, 40)
    out.gather(source, index, codes)
    taken = ("codes", "headers") if codes else ("values",)
    for name in ("values", "codes", "headers"):
        mine = getattr(out, name)
        assert (mine[:4] == getattr(source, name)[index]).all() or name not in taken
        assert not mine[4 if name in taken else 0 :].any()


@pytest.mark.parametrize("columns", [1, 32, 33, 4096])
def test_rows_of_codes_start_on_cache_lines_in_different_sets(columns):
    rows = Rows(3, columns)
    for array in (rows.values, rows.codes):
        assert array.ctypes.data % 64 == 0
        assert array.strides[0] % 64 == 0
        assert array.strides[0] % 4096
    assert rows.codes.shape == rows.values.shape
    assert rows.scale.shape[1] == rows.codes.shape[1] // 32
    total = sum(a.nbytes for a in (rows.values, rows.codes, rows.headers))
    assert rows.nbytes == total
