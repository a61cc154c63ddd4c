"""MLX, GPTQ and AWQ: every code and every number of bits, against definitions in plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_parts import assembled, bf16, check, random, stream, widen

from cpumix.checkpoint.encodings.mlx import E8M0, FP4
from cpumix.checkpoint.encodings.plain import E4M3
from cpumix.errors import ConvertError

F32 = np.float32


# ---- MLX


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize(("group", "shape"), [(32, (5, 96)), (64, (3, 4, 128)), (128, (2, 256))])
def test_mlx_affine(tmp_path: Path, bits: int, group: int, shape: tuple[int, ...]) -> None:
    rng = random(bits)
    codes = rng.integers(0, 1 << bits, shape)
    scales = bf16(rng.normal(size=(*shape[:-1], shape[-1] // group)))  # negative ones too
    biases = bf16(rng.normal(size=scales.shape))
    parts = {"m.weight": stream(codes, bits), "m.scales": scales, "m.biases": biases}
    spread = [np.repeat(widen(part), group, axis=-1) for part in (scales, biases)]
    expected = spread[0] * codes.astype(F32) + spread[1]
    settings = {"group_size": group, "bits": bits, "mode": "affine"}
    found = assembled(tmp_path, "mlx", parts, settings)
    assert found.keys() == {"m.weight"}
    assert found["m.weight"].encoding == f"MLX {bits} bits"
    assert found["m.weight"].nbytes == sum(part.nbytes for part in parts.values())
    check(found["m.weight"], expected)


@pytest.mark.parametrize(
    ("mode", "bits", "group", "values", "scale_of"),
    [
        ("mxfp4", 4, 32, FP4, E8M0),
        ("nvfp4", 4, 16, FP4, E4M3),
        ("mxfp8", 8, 32, E4M3, E8M0),
    ],
)
def test_mlx_floats(
    tmp_path: Path, mode: str, bits: int, group: int, values: Any, scale_of: Any
) -> None:
    rng = random(1)
    codes = rng.integers(0, 1 << bits, (4, 3, 64))
    scales = rng.integers(100, 150, (4, 3, 64 // group)).astype(np.uint8)
    parts = {"m.weight": stream(codes, bits), "m.scales": scales}
    expected = values[codes] * np.repeat(scale_of[scales], group, axis=-1)
    found = assembled(tmp_path, "mlx", parts, {"group_size": group, "bits": bits, "mode": mode})
    check(found["m.weight"], expected)


def test_mlx_scales_are_powers_of_two() -> None:
    assert E8M0[127] == 1 and E8M0[130] == 8 and E8M0[0] == 2.0**-127 and np.isnan(E8M0[255])
    assert FP4.tolist() == [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]


def test_mlx_recipe_of_several_bits(tmp_path: Path) -> None:
    rng, parts, expected = random(2), {}, {}
    for name, bits in (("a", 4), ("b", 6), ("c", 4)):
        codes = rng.integers(0, 1 << bits, (2, 32))
        parts[name + ".weight"] = stream(codes, bits)
        parts[name + ".scales"] = np.full((2, 1), 0.5, np.float16)
        parts[name + ".biases"] = np.full((2, 1), -1.0, np.float16)
        expected[name] = codes * 0.5 - 1
    parts["d.weight"] = np.ones((2, 32), np.float16)
    own = {"b": {"group_size": 32, "bits": 6}, "c": True, "d": False}
    settings = {"group_size": 32, "bits": 4, **own}
    found = assembled(tmp_path, "mlx", parts, settings)
    for name, values in expected.items():
        check(found[name + ".weight"], values)
    assert found["d.weight"].encoding == "F16"


# ---- GPTQ


def gptq(
    rng: np.random.Generator, bits: int, *, zeros: Any, group: int = 32, act_order: bool = False
) -> tuple[dict[str, Any], Any]:
    """Return the parts of a (64, 96) matrix, and its weights."""
    rows, columns = 64, 96
    groups = columns // group
    codes = rng.integers(0, 1 << bits, (columns, rows))
    stored, meant = zeros((groups, rows))
    scales = rng.normal(size=(groups, rows)).astype(np.float16)
    g_idx = np.arange(columns) // group
    if act_order:
        g_idx = rng.permutation(g_idx)
    weights = np.zeros((rows, columns), F32)
    for k in range(columns):
        for n in range(rows):
            g = g_idx[k]
            weights[n, k] = F32(scales[g, n]) * F32(int(codes[k, n]) - int(meant[g, n]))
    parts = {
        "m.qweight": np.ascontiguousarray(stream(codes.T, bits, "<i4").T),
        "m.qzeros": stream(stored, bits, "<i4"),
        "m.scales": scales,
        "m.g_idx": g_idx.astype(np.int32),
    }
    return parts, weights


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("act_order", [False, True])
def test_gptq(tmp_path: Path, bits: int, version: int, act_order: bool) -> None:
    rng = random(bits)

    def zeros(shape: tuple[int, int]) -> tuple[Any, Any]:
        stored = rng.integers(0, 1 << bits, shape)
        return stored, (stored + 1) % (1 << bits) if version == 1 else stored

    parts, weights = gptq(rng, bits, zeros=zeros, act_order=act_order)
    settings = {
        "bits": bits,
        "group_size": 32,
        "sym": False,
        "checkpoint_format": "gptq" if version == 1 else "gptq_v2",
    }
    found = assembled(tmp_path, "gptq", parts, settings)
    assert found["m.weight"].encoding == f"GPTQ {bits} bits"
    check(found["m.weight"], weights)
    if not act_order:
        del parts["m.g_idx"]
        check(assembled(tmp_path, "gptq", parts, settings)["m.weight"], weights)


@pytest.mark.parametrize("stored", [7, 8])
@pytest.mark.parametrize("format", ["gptq", "gptq_v2", None])
def test_gptq_symmetric_zeros_tell_their_version(
    tmp_path: Path, stored: int, format: str | None
) -> None:
    parts, weights = gptq(
        random(0), 4, zeros=lambda shape: (np.full(shape, stored), np.full(shape, 8)), group=96
    )
    found = assembled(tmp_path, "gptq", parts, {"bits": 4, "sym": True, "format": format})
    check(found["m.weight"], weights)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"bits": 5}, "expected 2, 3, 4 or 8 bits in the format gptq or gptq_v2, found qwei"),
        ({}, {"bits": 4, "checkpoint_format": "marlin"}, "in the format gptq or gptq_v2, found"),
        ({"m.qzeros": None}, {"bits": 4}, 'tensor "m.qweight": expected qzeros beside it, found n'),
        ({"m.scales": np.ones((3, 63), np.float16)}, {"bits": 4}, "expected qweight, qzeros, sca"),
        ({"m.scales": np.ones((), np.float16)}, {"bits": 4}, "expected qweight, qzeros, scales a"),
        ({"m.scales": np.ones((3, 64), np.int8)}, {"bits": 4}, "expected qweight, qzeros, scales"),
        ({"m.qweight": np.zeros(768, np.int32)}, {"bits": 4}, "expected qweight, qzeros, scales "),
        ({"m.qweight": np.zeros((0, 64), np.int32)}, {"bits": 4}, "expected qweight, qzeros, sca"),
        ({"m.g_idx": np.zeros(95, np.int32)}, {"bits": 4}, "expected qweight, qzeros, scales and"),
        ({"m.g_idx": np.zeros(96, np.float32)}, {"bits": 4}, "expected qweight, qzeros, scales a"),
    ],
)
def test_gptq_parts_that_do_not_fit(
    tmp_path: Path, change: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    parts, _ = gptq(random(0), 4, zeros=lambda shape: (np.full(shape, 7), np.full(shape, 8)))
    parts = {n: a for n, a in (parts | change).items() if a is not None}
    with pytest.raises(ConvertError, match=message):
        assembled(tmp_path, "gptq", parts, settings)


def test_gptq_groups_outside_are_refused(tmp_path: Path) -> None:
    parts, _ = gptq(random(0), 4, zeros=lambda shape: (np.full(shape, 7), np.full(shape, 8)))
    for wrong in (3, -1):
        parts["m.g_idx"][5] = wrong
        matrix = assembled(tmp_path, "gptq", parts, {"bits": 4})["m.weight"]
        with pytest.raises(ConvertError, match=r'module "m": expected groups 0 to 2 in g_idx, fou'):
            matrix.read_rows(0, 1)


# ---- AWQ


@pytest.mark.parametrize("groups", [1, 3])
def test_awq(tmp_path: Path, groups: int) -> None:
    rng, rows, columns = random(groups), 40, 96
    codes = rng.integers(0, 16, (columns, rows))
    zeros = rng.integers(0, 16, (groups, rows))
    scales = rng.normal(size=(groups, rows)).astype(np.float16)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word holds row order[i] of its eight

    def packed(numbers: Any) -> Any:
        return stream(numbers.reshape(len(numbers), -1, 8)[..., order].reshape(len(numbers), -1), 4)

    weights = np.zeros((rows, columns), F32)
    for k in range(columns):
        for n in range(rows):
            g = k // (columns // groups)
            weights[n, k] = F32(int(codes[k, n]) - int(zeros[g, n])) * F32(scales[g, n])
    parts = {
        "m.qweight": packed(codes).view(np.int32),
        "m.qzeros": packed(zeros).view(np.int32),
        "m.scales": scales,
    }
    found = assembled(tmp_path, "awq", parts, {"bits": 4, "version": "GEMM"})
    check(found["m.weight"], weights)
    for settings, message in (
        ({"version": "gemv"}, "expected 4 bits in AWQ's version gemm, found qweight"),
        ({"bits": 3}, "expected 4 bits in AWQ's version gemm, found qweight"),
    ):
        with pytest.raises(ConvertError, match=message):
            assembled(tmp_path, "awq", parts, settings)
    parts["m.scales"] = scales[:, 1:]
    with pytest.raises(ConvertError, match="expected qweight, qzeros and scales of AWQ in 4 bits"):
        assembled(tmp_path, "awq", parts)


# ---- what does not fit in MLX


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"bits": 7}, "expected a known mode, bits and group size of MLX, found"),
        ({}, {"mode": "other"}, "expected a known mode, bits and group size of MLX, found"),
        ({}, {"group_size": "64"}, "expected a known mode, bits and group size of MLX, found"),
        ({}, {"bits": 8}, "expected weight, scales and biases of MLX 8 bits in groups of 32"),
        (
            {"m.weight": np.ones((2, 2), "u4")},
            {"bits": 3, "group_size": 24},
            "of MLX 3 bits in groups",
        ),
        ({}, {"mode": "mxfp4"}, "expected weight, scales and biases of MLX mxfp4 in groups"),
        ({"m.biases": None}, {}, "expected weight, scales and biases of MLX 4 bits in groups"),
        ({"m.weight": None}, {}, 'tensor "m.scales": expected weight beside it, found none'),
        ({"m.scales": np.ones((2, 1), np.int8)}, {}, "expected weight, scales and biases of MLX"),
    ],
)
def test_mlx_parts_that_do_not_fit(
    tmp_path: Path, change: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    parts = {
        "m.weight": np.zeros((2, 4), np.uint32),
        "m.scales": np.ones((2, 1), np.float16),
        "m.biases": np.ones((2, 1), np.float16),
    }
    parts = {n: a for n, a in (parts | change).items() if a is not None}
    with pytest.raises(ConvertError, match=message):
        assembled(tmp_path, "mlx", parts, {"group_size": 32, "bits": 4} | settings)
