"""Products equal the formats' definitions at every level, for every row, alone or in company."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from naive import (
    FORCED,
    GENERIC,
    INTEGER_FORMATS,
    KINDS,
    SLACK,
    TINY,
    WITHOUT_JIT,
    U,
    hard,
    headers,
    rows_of,
    with_unit_scales,
)
from naive import product as naive_product

from cpumix.kernels import create_backend
from cpumix.kernels.backend import Backend
from cpumix.kernels.encode import encode
from cpumix.kernels.operands import Matmul, MatmulGroup, TiledMatrix
from cpumix.kernels.rows import Rows
from cpumix.quant import FORMATS, activations, q4, tile_counts

COUNTS = (1, 2, 3, 4, 5, 16, 17, 37, 130)
# One row of one block; odd numbers of tiles, blocks and panels; Mixtral's width; very many tiles.
SHAPES = [
    *product((1, 16, 17, 40, 200), (32, 33, 64, 544, 1056)),
    *[(16, 14336), (17, 14336), (5000, 32)],
]
if FORCED:
    SHAPES = [(1, 32), (17, 33), (40, 544), (200, 1056), (17, 14336)]
if GENERIC:
    SHAPES, COUNTS = [(1, 32), (17, 33), (40, 544), (16, 14336)], (1, 2, 5, 17)
if WITHOUT_JIT:
    SHAPES, COUNTS = [(1, 32), (17, 33)], (1, 2, 5)
EXAMPLES = [
    *[(*shape, "random") for shape in SHAPES],
    *[(*shape, kind) for shape in SHAPES[1::6] for kind in KINDS[1:]],
]
ROWS = max(COUNTS)
SENTINEL = np.float32(12345.0)

# e^-x to 2 units (math.exp), one rounding each of 1 + e^-x, the quotient, and the product.
SILU = SLACK * (2 * 2 + 3) * U
SILU_CLAMPED = SLACK * np.exp(
    -88.0
)  # what is left of x / (1 + e^-x) where e^-x is clamped: at most this times x


def matrix(format_name: str, w: np.ndarray) -> TiledMatrix:
    return TiledMatrix(format_name, encode(w, format_name)[0])


def room(count: int, weight: TiledMatrix) -> np.ndarray:
    """Return an output buffer that is larger than its result, full of sentinels."""
    return np.full((count + 2, 16 * weight.tiles.shape[0] + 48), SENTINEL)


def run(e: Backend, work: list[Matmul]) -> list[np.ndarray]:
    """Return the results of products of one call, and hold that nothing beside them was written."""
    e.multiply(MatmulGroup(work))
    results = []
    for job in work:
        columns = 16 * job.weight.tiles.shape[0]
        assert (job.out[job.rows :] == SENTINEL).all()
        assert (job.out[:, columns:] == SENTINEL).all()
        results.append(job.out[: job.rows, :columns])
    return results


def one(e: Backend, weight: TiledMatrix, x: Rows, first: int, count: int, second=None):
    """Return one product's result."""
    return run(e, [Matmul(weight, x, first, count, room(count, weight), second)])[0]


def batches(e: Backend, weight: TiledMatrix, x: Rows, second=None):
    """Yield (which rows, result) for batches of every size at the start and at the end of x."""
    spans = [(first, count) for count in COUNTS for first in sorted({0, ROWS - count})]
    work = [Matmul(weight, x, *span, room(span[1], weight), second) for span in spans]
    for (first, count), found in zip(spans, run(e, work), strict=True):
        yield slice(first, first + count), found


@pytest.fixture
def e():
    return create_backend(1)  # two threads would mostly wait for each other


@pytest.mark.parametrize(("n", "k", "kind"), EXAMPLES)
@pytest.mark.parametrize("name", FORMATS)
def test_product_equals_definition(e, name, n, k, kind):
    weight = matrix(name, hard(kind, n, k, seed=n + k))
    values = hard("random" if kind == "subnormal" else kind, ROWS, k, seed=1)
    x, (expected, bound) = rows_of(values), naive_product(weight, values)
    for rows, found in batches(e, weight, x):
        assert (np.abs(found - expected[rows]) <= bound[rows]).all(), rows


@pytest.mark.parametrize("kind", ["random", "extremes"])
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("name", INTEGER_FORMATS)
def test_integer_sums_are_exact(e, name, n, k, kind):
    """With all scales 1 every result is an integer that float32 holds exactly."""
    random, (tiles, blocks) = np.random.default_rng(k), tile_counts(n, k)
    coded = random.integers(1, 256, FORMATS[name].shape(n, k)).astype(np.uint8)
    codes = random.integers(-127, 128, (ROWS, 32 * blocks))
    if kind == "extremes":  # pairs of equal sign make vpmaddubsw saturate, if anything does
        ends = (1, 255) if name == "q8" else (0x00, 0xFF)
        coded[:] = np.array(ends, np.uint8)[random.integers(0, 2, (tiles, *[1] * (coded.ndim - 1)))]
        codes = np.where(np.arange(ROWS)[:, None] % 2, -127, 127) * np.ones_like(codes)
    coded = with_unit_scales(name, coded)
    weight, x = TiledMatrix(name, coded), Rows(ROWS, 32 * blocks)
    x.codes[:ROWS, : 32 * blocks] = codes
    starts = (-128 * codes.reshape(ROWS, blocks, 32).sum(-1)).astype(np.int32)
    x.headers[:ROWS, :blocks] = headers(np.ones((ROWS, blocks), np.float32), starts)
    values = FORMATS[name].dequantize(coded, 16 * tiles, 32 * blocks).astype(np.int64)
    expected = codes @ values.T
    exact = expected.astype(np.float32).astype(np.int64) == expected
    assert exact.mean() > 0.99  # the longest extremes leave float32's integers
    for rows, found in batches(e, weight, x):
        assert (found == expected[rows])[exact[rows]].all(), rows


def test_bf16_sums_of_integers_are_exact(e):
    n, k = 17, 32 if WITHOUT_JIT else 1056
    w, x = (np.random.default_rng(s).integers(-99, 100, (n, k)).astype(np.float32) for s in (0, 1))
    found = one(e, matrix("bf16", w), rows_of(x), 0, n)
    assert (found[:, :n] == x @ w.T).all()


@pytest.mark.parametrize("name", FORMATS)
def test_row_of_a_batch_equals_the_row_alone(e, name):
    n, k = (17, 33) if WITHOUT_JIT else (40, 544)
    weight = matrix(name, hard("random", n, k, seed=2))
    other = matrix(name, hard("random", n, k, seed=3))
    x = rows_of(hard("random", ROWS, k, seed=4))
    for second in (None, other):
        work = [Matmul(weight, x, i, 1, room(1, weight), second) for i in range(ROWS)]
        alone = np.concatenate(run(e, work))
        for rows, found in batches(e, weight, x, second):
            assert (found == alone[rows]).all(), rows


@pytest.mark.parametrize("name", FORMATS)
def test_threads_change_no_bit(name):
    n, k = (17, 33) if GENERIC else (1000, 544)
    weight = matrix(name, hard("random", n, k, seed=2))
    x = rows_of(hard("random", ROWS, k, seed=4))
    one_thread, two_threads = (list(batches(create_backend(n), weight, x)) for n in (1, 2))
    for (rows, a), (_, b) in zip(one_thread, two_threads, strict=True):
        assert (a == b).all(), rows


@pytest.mark.parametrize("count", [c for c in COUNTS if c < 20])
@pytest.mark.parametrize("name", FORMATS)
def test_second_matrix_gives_silu_of_the_first_times_the_second(e, name, count):
    n, k = (17, 33) if WITHOUT_JIT else (72, 544)
    w = hard("random", n, k, seed=5) / np.float32(2)
    w[:4] *= 300  # silu far outside the range of e^x
    weight, other = matrix(name, w), matrix(name, hard("random", n, k, seed=6))
    x = rows_of(hard("random", count, k, seed=7))
    gate, up = (one(e, m, x, 0, count).astype(np.float64) for m in (weight, other))
    assert GENERIC or np.abs(gate).max() > 100
    silu = gate * np.exp(-np.logaddexp(0, -gate))
    with np.errstate(over="ignore"):  # without the JIT, e^x is NumPy's and says so
        found = one(e, weight, x, 0, count, other)
    off = np.abs(found - silu * up)
    assert (off <= SILU * np.abs(silu * up) + SILU_CLAMPED * np.abs(gate * up)).all()


def test_products_of_one_call_do_not_meet(e):
    sizes = [(17, 33), (1, 32)] if WITHOUT_JIT else [(17, 33), (200, 544), (1, 32), (40, 64)]
    work, alone = [], []
    for i, (name, (n, k), count) in enumerate(product(FORMATS, sizes, (0, 1, 5))):
        weight, other = (matrix(name, hard("random", n, k, seed)) for seed in (i, i + 1))
        x, second = rows_of(hard("random", 7, k, seed=i)), other if i % 2 else None
        alone.append(one(e, weight, x, 2, count, second))
        work.append(Matmul(weight, x, 2, count, room(count, weight), second))
    assert all((a == b).all() for a, b in zip(run(e, work), alone, strict=True))


@pytest.mark.skipif(WITHOUT_JIT, reason="minutes in plain Python")
@pytest.mark.parametrize("name", FORMATS)
def test_largest_batch(e, name):
    weight, values = matrix(name, hard("random", 24, 64, seed=8)), hard("random", 512, 64, seed=9)
    expected, bound = naive_product(weight, values)
    assert (np.abs(one(e, weight, rows_of(values), 0, 512) - expected) <= bound).all()


@pytest.mark.parametrize("name", FORMATS)
def test_read_only_weights_at_any_place_of_a_file(e, name):
    """A map is read-only, and the three matrices of an expert follow one another unaligned."""
    n, k = (17, 33) if WITHOUT_JIT else (40, 544)
    weight, x = matrix(name, hard("random", n, k, seed=2)), rows_of(hard("random", 5, k, seed=4))
    for offset in (32, 33):
        data = bytes(offset) + weight.tiles.tobytes()
        mapped = np.frombuffer(data, np.uint8, offset=offset).reshape(weight.tiles.shape)
        for count in (1, 5):
            found = one(e, TiledMatrix(name, mapped), x, 0, count)
            assert (found == one(e, weight, x, 0, count)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("count", [1, 5])
def test_nan_and_infinity_survive(e, bad, count):
    """No kernel is compiled with fastmath, which would let the compiler assume there are none."""
    w, values = hard("random", 17, 64, seed=2), hard("random", count, 64, seed=4)
    x = rows_of(values)
    x.values[0, 3] = bad
    with np.errstate(invalid="ignore"):
        found = one(e, matrix("bf16", w), x, 0, count)
    assert not np.isfinite(found[0, :17]).any()
    assert np.isfinite(found[1:]).all()


def test_tiny_scales_do_not_vanish(e):
    """Float16 scales below the normal range are read as they are."""
    weight = matrix("q8", hard("random", 17, 64, seed=2) * np.float32(1e-5))
    values = hard("random", 5, 64, seed=4)
    expected, bound = naive_product(weight, values)
    found = one(e, weight, rows_of(values), 0, 5)
    assert (np.abs(found - expected) <= bound + TINY).all()
    assert np.count_nonzero(found[:, :17]) > 80


def test_code_book_of_the_matrix(e):
    """Two matrices of one call, the second with a book of its own."""
    n, k = (17, 33) if WITHOUT_JIT else (40, 544)
    book = np.array([-127, -90, *range(-60, 60, 10), 90, 127], np.int8)
    tiles = encode(hard("random", n, k, seed=2), "q4")[0]
    plain, own = TiledMatrix("q4", tiles), TiledMatrix("q4", tiles, book)
    values = hard("random", 37, k, seed=4)
    x = rows_of(values)
    shape = 16 * tiles.shape[0], 32 * tiles.shape[1]
    wide = activations.dequantize(activations.quantize(values)).astype(np.float64)
    for count in (1, 5, 37):
        found = run(e, [Matmul(m, x, 0, count, room(count, m)) for m in (plain, own)])
        assert (found[0] == one(e, plain, x, 0, count)).all()
        expected = wide[:count] @ q4.dequantize(tiles, *shape, book).astype(np.float64).T
        size = np.abs(wide[:count]) @ np.abs(q4.dequantize(tiles, *shape, book)).T
        assert (np.abs(found[1] - expected) <= SLACK * U * (shape[1] // 32 + 2) * size).all()
