"""What the formats mean: how exact they are, which bytes they are, and what odd weights become."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from naive import INTEGER_FORMATS, KINDS, hard

from cpumix.config import Role, TensorSpec
from cpumix.quant import FLOAT32, FORMATS, activations, bf16, nbytes, q4, q8, tiles
from cpumix.quant.precision import PRECISIONS, LayerFormats, Precision, parts_of

SHAPES = [(1, 1), (16, 32), (17, 33), (40, 100), (3, 1056)]

# Relative RMS errors of weights, measured once on 2^20 of them, rounded up. The
# published IQ4_NL values with searched scales reach 0.0732 and 0.0853.
RMS_ERROR = {
    ("bf16", "normal"): 0.00168,
    ("q8", "normal"): 0.00540,
    ("q6", "normal"): 0.0199,
    ("q4", "normal"): 0.0735,
    ("q4s", "normal"): 0.0715,
    ("q3s", "normal"): 0.1466,
    ("q2s", "normal"): 0.3018,
    ("q8", "student"): 0.00680,
    ("q6", "student"): 0.0253,
    ("q4", "student"): 0.0855,
    ("q4s", "student"): 0.0843,
    ("q3s", "student"): 0.1683,
    ("q2s", "student"): 0.3430,
}
BF16_ERROR = 2.0**-8  # half a unit of 8 significant bits
LEAST_FLOAT16 = 2.0**-24


def sample(kind: str) -> np.ndarray:
    """Return 2^17 weights: normal ones, or some with heavy tails as trained ones have."""
    random = np.random.default_rng(7)
    if kind == "student":
        return random.standard_t(5, (256, 512)).astype(np.float32)
    return random.standard_normal((256, 512), np.float32)


def relative_rms(w: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(((w - other).astype(np.float64) ** 2).mean() / (w**2).mean()))


def round_trip(name: str, w: np.ndarray) -> np.ndarray:
    return FORMATS[name].dequantize(FORMATS[name].quantize(w), *w.shape)


@pytest.mark.parametrize(("name", "kind"), RMS_ERROR)
def test_error_is_as_small_as_claimed(name, kind):
    w = sample(kind)
    assert relative_rms(w, round_trip(name, w)) <= RMS_ERROR[name, kind]


def test_every_format_has_an_error_bound():
    assert {name for name, _ in RMS_ERROR} == set(FORMATS)


@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_tiles_have_the_size_that_is_counted(name, n, k):
    kind = FORMATS[name]
    made = kind.quantize(hard("random", n, k, seed=1))
    assert made.shape == kind.shape(n, k)
    assert kind.blocks(made) == -(-k // 32)
    assert made.dtype == np.uint8
    assert made.nbytes == kind.nbytes(n, k) == nbytes(name, (n, k))


def test_bits_per_weight():
    assert {name: f.bits_per_weight for name, f in FORMATS.items()} == {
        "bf16": 16,
        "q8": 8.5,
        "q6": 6.5,
        "q4": 4.5,
        "q4s": 4.25,
        "q3s": 3.25,
        "q2s": 2.25,
    }


def test_plain_float32_is_counted_too():
    assert nbytes(FLOAT32, (8, 4096)) == 8 * 4096 * 4
    assert nbytes(FLOAT32, (33,)) == 132
    assert nbytes(FLOAT32, (1 << 20, 1 << 20)) == 1 << 42  # beyond 32 bits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), SHAPES)
@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_an_embedding_are_those_of_the_matrix(name, n, k, kind):
    made = FORMATS[name].quantize(hard(kind, n, k, seed=2))
    padded = FORMATS[name].dequantize(made, 16 * made.shape[0], 32 * FORMATS[name].blocks(made))
    for ids in ([0], [n - 1, 0, 0, n // 2]):
        index = np.array(ids, np.int64)
        assert (FORMATS[name].rows(made, index) == padded[index]).all()


@pytest.mark.parametrize("name", FORMATS)
def test_padding_is_zero(name):
    made = FORMATS[name].quantize(hard("random", 17, 33, seed=3))
    padded = FORMATS[name].dequantize(made, 32, 64)
    assert not padded[17:].any()
    has_zero = FORMATS[name].book is None  # else what stands for zero is a value near it
    assert not padded[:, 33 if has_zero else 64 :].any()


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_stay_zeros(name):
    assert not round_trip(name, np.zeros((17, 33), np.float32)).any()


@pytest.mark.parametrize("name", FORMATS)
def test_read_only_and_unaligned_tiles(name):
    made = FORMATS[name].quantize(hard("random", 17, 70, seed=3))
    mapped = np.frombuffer(bytes(32) + made.tobytes(), np.uint8, offset=32).reshape(made.shape)
    same = FORMATS[name].dequantize(mapped, 17, 70) == FORMATS[name].dequantize(made, 17, 70)
    assert same.all()
    ids = np.array([3, 16])
    assert (FORMATS[name].rows(mapped, ids) == FORMATS[name].rows(made, ids)).all()


# bfloat16
# ------------------------------------------------------------------------------------------------


def test_bfloat16_is_exact_on_bfloat16():
    bits = np.arange(65536, dtype=np.uint16)
    bits = bits[np.isfinite(bf16.to_float32(bits))]
    values = bf16.to_float32(bits)
    assert (bf16.from_float32(values) == bits).all()
    whole = values[: len(values) // 255 * 255].reshape(-1, 255)
    assert (round_trip("bf16", whole) == whole).all()


def test_bfloat16_rounds_to_nearest_even():
    bits = np.arange(0x7F7F, dtype=np.uint32)
    low, tie, high = ((bits << 16) + add for add in (0, 0x8000, 0x10000))
    even = np.where(bits % 2, high, low)
    for x, expected in ((tie, even), (tie - 1, low), (tie + 1, high)):
        found = bf16.from_float32(x.astype(np.uint32).view(np.float32))
        assert (found == expected >> 16).all()
        minus = bf16.from_float32(-x.astype(np.uint32).view(np.float32))
        assert (minus == (expected >> 16) + 0x8000).all()


def test_bfloat16_error():
    w = hard("outlier", 40, 100, seed=4)
    assert (np.abs(round_trip("bf16", w) - w) <= BF16_ERROR * np.abs(w)).all()


# 8 bits
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, "equal", "small"])
def test_q8_is_within_half_a_step(kind):
    """As GGUF's Q8_0: a float16 scale of largest / 127, and the nearest of 255 codes."""
    w = np.full((40, 100), -0.3, np.float32) if kind == "equal" else None
    w = hard("random" if kind == "small" else kind, 40, 100, seed=5) if w is None else w
    w = w * np.float32(1e-4 if kind == "small" else 1)
    found = round_trip("q8", w)
    padded = np.pad(w, ((0, 0), (0, 28))).reshape(40, 4, 32)
    largest = np.abs(padded).max(-1)
    scale = (largest * np.float32(1 / 127)).astype(np.float16).astype(np.float32)
    step = np.repeat(scale, 32, axis=1)[:, :100]
    clipped = np.abs(w) - 127 * step  # where so small a scale is coarse, or zero
    bound = np.maximum(0.5 * step * (1 + 2.0**-20), clipped)
    assert (np.abs(found - w) <= bound).all()
    codes = np.divide(found, step, out=np.zeros_like(found), where=step > 0)
    assert (codes == np.rint(codes)).all()
    assert np.abs(codes).max(initial=0) <= 127


def test_q8_keeps_integers_of_a_full_range():
    w = np.resize(np.arange(-127, 128, dtype=np.float32), (16, 255 * 32)).copy()
    w[:, ::32] = 127
    assert (round_trip("q8", w) == w).all()


def test_q8_weights_below_the_least_scale_vanish():
    """Largest / 127 is a float16: weights that are millionths of a millionth become zero."""
    w = hard("random", 16, 64, seed=6) * np.float32(1e-9)
    assert not round_trip("q8", w).any()
    assert np.abs(w).max() / 127 < LEAST_FLOAT16 / 2


def test_q8_golden_bytes():
    """Row 1, column 5 is group 1, row 1, byte 1; row r's scale is float16 r of the tail."""
    w = np.zeros((3, 40), np.float32)
    w[1, 5], w[1, 6], w[2, 39] = 127, -64, -254
    made = q8.quantize(w)
    codes = np.full((1, 2, 512), 128, np.uint8)
    codes[0, 0, 64 * 1 + 4 * 1 + 1] = 128 + 127
    codes[0, 0, 64 * 1 + 4 * 1 + 2] = 128 - 64
    codes[0, 1, 64 * 1 + 4 * 2 + 3] = 128 - 127
    scales = np.zeros((1, 2, 16), np.float16)
    scales[0, 0, 1], scales[0, 1, 2] = 1, 2
    assert (made == np.concatenate([codes, scales.view(np.uint8)], axis=-1)).all()


# 4 bits
# ------------------------------------------------------------------------------------------------


def test_code_book_is_that_of_iq4_nl():
    book = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
    assert q4.CODE_BOOK.tolist() == book
    assert (np.diff(q4.MIDPOINTS) > 0).all()


def test_q4_keeps_multiples_of_the_code_book():
    random = np.random.default_rng(8)
    w = q4.CODE_BOOK[random.integers(0, 16, (40, 96))].astype(np.float32)
    w[:, ::32] = -127  # the search finds a scale of 1 only where the largest is present
    assert (round_trip("q4", w * np.float32(0.25)) == w * np.float32(0.25)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_q4_takes_the_nearest_value_of_its_code_book(kind):
    w = hard(kind, 40, 96, seed=9)
    made = q4.quantize(w)
    scale = tiles.unpack_scales(made[..., q4.CODE_BYTES :]).reshape(48, 3)[:40].repeat(32, axis=1)
    choices = scale[..., None] * q4.CODE_BOOK.astype(np.float32)
    least = np.abs(choices - w[..., None]).min(-1)
    off = np.abs(q4.dequantize(made, 40, 96) - w)
    assert (off <= least + 1e-6 * np.abs(scale)).all()


def test_q4_scale_is_no_worse_than_the_obvious_one():
    """The largest weight on the outermost value, as GGUF's Q4_0 does it."""
    w = sample("normal")[:64]
    blocks = w.reshape(64, -1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    scale = (largest / -127).astype(np.float16).astype(np.float32)
    plain = scale * q4.CODE_BOOK.astype(np.float32)[q4.encode(blocks / scale)]
    searched = round_trip("q4", w).reshape(blocks.shape)
    errors = [((x - blocks) ** 2).sum(-1) for x in (searched, plain)]
    assert errors[0].sum() < 0.93 * errors[1].sum()


def test_q4_golden_bytes():
    """Columns 4-7 are the high nibbles of the first 64 bytes, columns 8-11 the low of the second.

    Row 1's only weight is the outermost value of the code book; zeros take the nearest value, 1.
    """
    w = np.zeros((2, 32), np.float32)
    w[1, :12] = [-127, 113, 1, 1, -10, 13, 1, 1, 89, -104, 1, 1]
    w[1, 12:] = 1
    made = q4.quantize(w)
    packed = np.zeros((1, 1, 256), np.uint8)
    packed[0, 0, :] = 0x88  # index 8: value 1
    packed[0, 0, 4:8] = [0x70, 0x9F, 0x88, 0x88]
    packed[0, 0, 68:72] = [0x8E, 0x81, 0x88, 0x88]
    scales = np.zeros((1, 1, 16), np.float16)
    scales[0, 0, 1] = 1
    assert (made[..., 256:] == scales.view(np.uint8)).all()
    used = np.arange(64) // 4 == 1  # the nibbles of rows without a scale mean nothing
    found, right = (x[..., :256].reshape(4, 64)[:, used] for x in (made, packed))
    assert (found == right).all()


# All formats
# ------------------------------------------------------------------------------------------------

# Of the tiles of one matrix; a change means that files made before mean something else.
GOLDEN = {
    "bf16": "9ffc38cf1f085573",
    "q8": "6a000f6d1cb76721",
    "q6": "89d64738fe1b766a",
    "q4": "66a2c073bb6376c3",
    "q4s": "57e0e745947bb00f",
    "q3s": "955c822019a2c6c4",
    "q2s": "8ceba12bae9fd23d",
}


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_never_change(name):
    i, j = np.arange(20)[:, None], np.arange(70)[None, :]
    w = ((i * 37 + j * 11 + i * j) % 101 - 50).astype(np.float32) / 64
    w[3], w[5, 7] = 0, 40
    made = FORMATS[name].quantize(w)
    assert hashlib.sha256(made.tobytes()).hexdigest()[:16] == GOLDEN[name]


def test_interleaving_is_undone():
    random = np.random.default_rng(10)
    codes = random.integers(0, 256, (3, 16, 5, 32)).astype(np.uint8)
    groups = tiles.interleave(codes)
    assert groups.shape == (3, 5, 8, 16, 4)
    assert groups[2, 4, 3, 7, 1] == codes[2, 7, 4, 3 * 4 + 1]
    assert (tiles.deinterleave(groups) == codes).all()
    scale = random.random((3, 16, 5)).astype(np.float16)
    packed = tiles.pack_scales(scale)
    assert packed.shape == (3, 5, 32)
    assert (tiles.unpack_scales(packed) == scale).all()


@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_blocks_are_undone(n, k):
    w = hard("random", n, k, seed=11)
    blocks = tiles.to_blocks(w)
    assert blocks.shape == (*tiles.tile_counts(n, k)[:1], 16, tiles.tile_counts(n, k)[1], 32)
    assert (tiles.from_blocks(blocks, n, k) == w).all()


@pytest.mark.parametrize("name", [n for n in INTEGER_FORMATS if not FORMATS[n].scaling])
def test_outlier_spoils_only_its_block(name):
    w = hard("random", 20, 96, seed=12)
    loud = w.copy()
    loud[7, 40] = 1e4
    same = round_trip(name, w) == round_trip(name, loud)
    assert same[:7].all()
    assert same[8:].all()
    assert same[7, :32].all()
    assert same[7, 64:].all()


@pytest.mark.parametrize("name", [n for n in INTEGER_FORMATS if FORMATS[n].scaling])
def test_outlier_spoils_its_row_alone(name):
    w = hard("random", 20, 96, seed=12)
    loud = w.copy()
    loud[7, 40] = 1e4
    same = round_trip(name, w) == round_trip(name, loud)
    assert same[:7].all()
    assert same[8:].all()
    # And a modest one is borne: it makes the scales of the other blocks coarser, by less than 2 %.
    loud[7, 40] = 10 * np.abs(w[7]).max()
    others = np.r_[0:32, 64:96]
    quiet = relative_rms(w[7, others], round_trip(name, w)[7, others])
    assert relative_rms(w[7, others], round_trip(name, loud)[7, others]) < 1.2 * quiet


@pytest.mark.parametrize("name", [n for n in INTEGER_FORMATS if FORMATS[n].scaling])
def test_scale_bytes_say_what_they_mean(name):
    """Every value of a book, shifted or not, times every s and the row's scale is kept."""
    scaling = FORMATS[name].scaling
    s = np.array([-63, -1, 1, 62], np.float32).repeat(2)
    offset = np.tile(np.array([0, scaling.step], np.float32), 4)
    codes = np.arange(32) % len(scaling.book)
    w = np.zeros((16, 32 * 8), np.float32)
    values = scaling.book[codes].astype(np.float32) + offset[:, None]
    w[:] = (values * s[:, None] * np.float32(0.5)).ravel()
    tails = np.broadcast_to((s.astype(np.int8) << 1).view(np.uint8) | (offset > 0), (1, 16, 8))
    made = scaling.join(
        np.full((1, 16), 0.5, np.float32),
        tails,
        np.broadcast_to(codes.astype(np.uint8), (1, 16, 8, 32)),
    )
    assert (FORMATS[name].dequantize(made, 16, 256) == w).all()
    # What is so is found again.
    assert relative_rms(w, round_trip(name, w)) < 1e-2


# Activations
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 32, 33, 544])
def test_activations_are_within_half_a_step(k, kind):
    x = hard(kind, 5, k, seed=13)
    made = activations.quantize(x)
    blocks = -(-k // 32)
    assert made.codes.shape == (5, 32 * blocks)
    assert made.scale.shape == made.start.shape == (5, blocks)
    assert (made.codes.dtype, made.scale.dtype, made.start.dtype) == (np.int8, np.float32, np.int32)
    assert made.codes.min(initial=0) >= -127
    assert not made.codes[:, k:].any()
    assert (made.start == -128 * made.codes.reshape(5, blocks, 32).sum(-1, dtype=np.int32)).all()
    step = made.scale.repeat(32, axis=1)[:, :k]
    bound = np.where(made.scale.repeat(32, axis=1)[:, :k] > 1e-30, 0.5001 * step, np.abs(x))
    assert (np.abs(activations.dequantize(made)[:, :k] - x) <= bound).all()


def test_activations_extremes_reach_127():
    made = activations.quantize(np.array([[127 / 4] * 32 + [-127 * 1.5] * 32], np.float32))
    assert (made.codes[0] == [127] * 32 + [-127] * 32).all()
    assert made.scale.tolist() == [[0.25, 1.5]]
    assert made.start.tolist() == [[-128 * 127 * 32, 128 * 127 * 32]]


def test_activation_scales_are_eighths_next_above_the_peak():
    x = hard("random", 50, 320, seed=14)
    scale = activations.quantize(x).scale.astype(np.float64)
    exact = np.abs(x.reshape(50, 10, 32)).max(-1) / 127.0
    eighths = scale / 2.0 ** np.floor(np.log2(scale)) * 8
    assert (eighths == np.rint(eighths)).all()
    assert (exact * (1 - 2**-22) <= scale).all()
    assert (scale < exact * 9 / 8 * (1 + 2**-22)).all()


# Which tensor takes which
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "bf16_model", "int8_model", "int4_model", "int3_model", "int2_model"),
    [
        (TensorSpec.of(Role.EMBEDDING, (32, 8)), "bf16", "q8", "q6", "q6", "q6"),
        (TensorSpec.of(Role.OUTPUT, (32, 8)), "bf16", "q8", "q6", "q6", "q6"),
        (TensorSpec.of(Role.SCORE, (2, 8)), *["f32"] * 5),
        (TensorSpec.of(Role.OUTPUT_NORM, (8,)), *["f32"] * 5),
        (TensorSpec.of(Role.ATTN_NORM, (8,), 0), *["f32"] * 5),
        (TensorSpec.of(Role.WQ, (8, 8), 31), "bf16", "q8", "q6", "q6", "q6"),
        (TensorSpec.of(Role.WO, (8, 8), 0), "bf16", "q8", "q6", "q6", "q6"),
        (TensorSpec.of(Role.FFN_NORM, (8,), 0), *["f32"] * 5),
        (TensorSpec.of(Role.ROUTER, (4, 8), 0), *["f32"] * 5),
        (TensorSpec.of(Role.EXPERT, (3, 8, 8), 0, 0), "bf16", "q8", "q4s", "q3s", "q2s"),
        (TensorSpec.of(Role.W2, (8, 8), 10, 7), "bf16", "q8", "q4s", "q3s", "q2s"),
    ],
)
def test_format_of_each_tensor(spec, bf16_model, int8_model, int4_model, int3_model, int2_model):
    found = tuple(PRECISIONS[name].format(spec) for name in PRECISIONS)
    assert found == (bf16_model, int8_model, int4_model, int3_model, int2_model)


def test_layers_and_parts_of_experts_may_differ():
    layers = (LayerFormats("q8", "q3s", "q4s"), LayerFormats("q6", "q2s", "q2s"))
    chosen = Precision("mix-3", "q6", "q8", layers)
    experts = [TensorSpec.of(Role.EXPERT, (3, 8, 8), layer, 5) for layer in (0, 1)]
    assert [chosen.format(spec) for spec in experts] == ["q3s+q4s", "q2s"]
    parts = [TensorSpec.of(role, (8, 8), 0, 5) for role in (Role.W1, Role.W3, Role.W2)]
    assert tuple(chosen.format(spec) for spec in parts) == parts_of("q3s+q4s")
    assert chosen.format(TensorSpec.of(Role.WK, (8, 8), 1)) == "q6"
    assert chosen.format(TensorSpec.of(Role.ROUTER, (4, 8), 1)) == "f32"
    assert chosen.formats == {"q2s", "q3s", "q4s", "q6", "q8"}
    assert chosen.describe() == "experts q4s 25 %, q3s 25 %, q2s 50 %; the rest q8, q6"
    assert PRECISIONS["int4"].describe() == "experts q4s; the rest q6"


def test_precisions_use_known_formats():
    for precision in PRECISIONS.values():
        assert precision.formats <= set(FORMATS)
