"""Each instruction means what its Python twin says, and e^x is as accurate as it claims."""

from __future__ import annotations

import numpy as np
import pytest
from naive import GENERIC, SLACK, TINY, U

if GENERIC:
    pytest.skip("the portable kernels use no instructions", allow_module_level=True)

from cpumix.kernels.compile.jit import kernel
from cpumix.kernels.simd import lanes, math, vectors
from cpumix.kernels.simd.level import LEVEL
from cpumix.kernels.simd.vectors import (
    address,
    i32x16,
    instruction,
    load_f16,
    load_f32,
    load_i32,
    store_f32,
    store_i32,
)

UNSIGNED = LEVEL.unsigned


@instruction(i32x16, i32x16)
def weights(b, stored):
    """Turn stored code + 128 into what `dot4` multiplies."""
    return LEVEL.weights(b, stored)


@instruction(i32x16, i32x16, i32x16, i32x16)
def dot4(b, acc, w, x):
    """Add products of four bytes to each lane."""
    return LEVEL.dot4(b, acc, w, x)


@instruction(i32x16, i32x16, i32x16)
def lookup(b, table, index):
    """Look every byte up."""
    return LEVEL.lookup(b, table, index)


@kernel
def sweep_exp(x, out):
    for i in range(0, 4 * x.size, 64):
        store_f32(address(out) + i, math.exp(load_f32(address(x) + i)))


@kernel
def sweep_silu(x, out):
    for i in range(0, 4 * x.size, 64):
        store_f32(address(out) + i, math.silu(load_f32(address(x) + i)))


@kernel
def sweep_dot4(acc, w, x, out):
    for i in range(0, 4 * acc.size, 64):
        stored = weights(load_i32(address(w) + i))
        total = dot4(load_i32(address(acc) + i), stored, load_i32(address(x) + i))
        store_i32(address(out) + i, total)


@kernel
def look_up(table, index, out):
    store_i32(address(out), lookup(load_i32(address(table)), load_i32(address(index))))


@kernel
def widen(half, out):
    for i in range(half.size // 16):
        store_f32(address(out) + 64 * i, load_f16(address(half) + 32 * i))


@kernel
def narrow(x, half):
    for i in range(half.size // 16):
        vectors.store_f16(address(half) + 32 * i, load_f32(address(x) + 64 * i))


@kernel
def reduce(x, out):
    v = load_f32(address(x))
    out[0], out[1] = lanes.reduce_add(v), lanes.reduce_max(v)


@kernel
def convert(x, words, codes):
    v = lanes.to_i32(lanes.rint(load_f32(address(x))))
    store_i32(address(words), v)
    vectors.store_i8(address(codes), v)


@kernel
def take_turns(counter, out):
    for i in range(out.size):
        out[i] = vectors.fetch_add(address(counter), 3)


def floats(count: int) -> np.ndarray:
    return np.zeros(count, np.float32)


def dense(low: float, high: float) -> np.ndarray:
    """Return a million floats of [low, high], and both ends' neighbours."""
    ends = np.array([low, high, 0, -0.0], np.float32)
    near = [np.nextafter(ends, np.float32(to)) for to in (-np.inf, np.inf)]
    inner = np.linspace(low, high, (1 << 20) - 16, dtype=np.float32)
    return np.concatenate([inner, ends, ends, *near])


def test_exp_is_within_two_units_in_the_last_place():
    x = dense(-87, 88)
    x = x[(x >= -87) & (x <= 88)]
    x = x[: len(x) // 16 * 16].copy()
    found = np.zeros_like(x)
    sweep_exp(x, found)
    expected = np.exp(x.astype(np.float64))
    units = np.abs(found - expected) / np.spacing(expected.astype(np.float32))
    assert units.max() <= 2
    assert (found[x == 0] == 1).all()


def test_exp_beyond_its_range():
    x = np.array([-87.01, -100, -1e30, -np.inf, 88, 88.01, 1e30, np.inf] * 2, np.float32)
    found = np.zeros_like(x)
    sweep_exp(x, found)
    assert not found[:4].any()
    assert (found[4:8] == found[4]).all()
    assert np.isfinite(found[4])


def test_exp_and_silu_keep_nan():
    x, found = np.full(16, np.nan, np.float32), floats(16)
    for sweep in (sweep_exp, sweep_silu):
        sweep(x, found)
        assert np.isnan(found).all()


def test_silu():
    x = dense(-87, 87)
    found = np.zeros_like(x)
    sweep_silu(x, found)
    wide = x.astype(np.float64)
    expected = wide * np.exp(-np.logaddexp(0, -wide))
    bound = SLACK * (2 * 2 + 2) * U * np.abs(expected) + TINY  # e^x to 2 units, a sum, a quotient
    assert (np.abs(found - expected) <= bound).all()


def test_dot4_of_every_pair_of_codes():
    """All pairs of a weight and an activation, in all four bytes at once: where sums saturate."""
    w, x = (a.ravel() for a in np.mgrid[-127:128, -127:128])
    w, x = (np.resize(a, (65536, 4)) for a in (w, x))
    w[60000:, 1::2] *= -1  # and pairs of opposite signs
    acc = np.arange(65536, dtype=np.int32) * 1000 - 30_000_000
    expected = acc + (w * x).sum(-1)
    start = acc - 128 * x.sum(-1) if UNSIGNED else acc
    stored, out = (w + 128).astype(np.uint8), np.zeros(65536, np.int32)
    sweep_dot4(start.astype(np.int32), stored.view(np.int32).ravel(), x.astype(np.int8), out)
    assert (out == expected).all()


def test_lookup_of_every_index():
    index = np.tile(np.arange(16, dtype=np.uint8), 4)
    out = np.zeros(64, np.uint8)
    table = np.arange(16, dtype=np.uint8) * 17
    look_up(np.tile(table, 4), index, out)
    assert (out == table[index]).all()


def test_float16_of_every_pattern():
    bits = np.arange(65536, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # on ARM, NumPy reports signalling NaNs
        expected, found = bits.view(np.float16).astype(np.float32), floats(65536)
    widen(bits, found)
    assert np.array_equal(found, expected, equal_nan=True)


def test_float16_is_rounded_to_nearest_even():
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    ties = (halves[1:] + halves[:-1]) / 2
    near = [np.nextafter(ties.astype(np.float32), np.float32(to)) for to in (0, np.inf)]
    x = np.concatenate([ties.astype(np.float32), *near, [65519, 65520, 1e9, np.inf]])
    x = np.concatenate([x, -x, [-0.0, 0.0]])
    x = np.concatenate([x, floats(-len(x) % 16)]).astype(np.float32)
    found = np.zeros(len(x), np.uint16)
    narrow(x, found)
    with np.errstate(over="ignore"):
        assert (found == x.astype(np.float16).view(np.uint16)).all()


def test_lanes_are_summed_in_order():
    random = np.random.default_rng(0)
    for _ in range(100):
        x = random.standard_normal(16, np.float32) * np.float32(10.0 ** random.integers(6))
        out = floats(2)
        reduce(x, out)
        assert out[0] == np.add.accumulate(x)[-1]
        assert out[1] == x.max()


def test_rounding_to_integers():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127, -127, 3.49, -3.51, *[0] * 6], np.float32)
    words, codes = np.zeros(16, np.int32), np.zeros(16, np.int8)
    convert(x, words, codes)
    assert (words == np.rint(x)).all()
    assert (codes == np.rint(x)).all()


def test_counter_gives_each_turn_once():
    counter, out = np.array([5]), np.zeros(4, np.int64)
    take_turns(counter, out)
    assert out.tolist() == [5, 8, 11, 14]
    assert counter[0] == 17
