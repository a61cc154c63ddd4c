"""bitsandbytes, HQQ and compressed-tensors against definitions in plain loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_parts import assembled, bf16, check, random, stream, widen

from cpumix.checkpoint.encodings.mlx import FP4
from cpumix.checkpoint.encodings.plain import E4M3
from cpumix.errors import ConvertError

F32 = np.float32

# ---- bitsandbytes


def state(shape: tuple[int, int], **fields: Any) -> Any:
    text = json.dumps({"quant_type": "nf4", "blocksize": 64, "shape": shape} | fields)
    return np.frombuffer(text.encode(), np.uint8)


def four_bits(shape: tuple[int, int], *, nested: bool, block: int = 64) -> tuple[dict, Any]:
    """Return the parts of a matrix in blocks of the flattened matrix, and its weights."""
    rng, count = random(shape[1]), shape[0] * shape[1]
    codes = rng.integers(0, 16, count)
    values = np.sort(rng.normal(size=16)).astype(F32)
    blocks = -(-count // block)
    fields: dict[str, Any] = {"blocksize": block}
    parts = {"m.weight": (codes[::2] << 4 | codes[1::2]).astype(np.uint8)[:, None]}
    if nested:
        quantized = rng.integers(0, 256, blocks).astype(np.uint8)
        scale_values = rng.uniform(0.1, 1, 256).astype(F32)
        scales = rng.uniform(0.1, 1, -(-blocks // 256)).astype(F32)
        absmax = np.array(
            [scale_values[q] * scales[i // 256] + F32(0.25) for i, q in enumerate(quantized)], F32
        )
        parts |= {"m.weight.absmax": quantized, "m.weight.nested_quant_map": scale_values}
        parts["m.weight.nested_absmax"] = scales
        fields |= {"nested_blocksize": 256, "nested_offset": 0.25}
    else:
        absmax = rng.uniform(0.1, 1, blocks).astype(F32)
        parts["m.weight.absmax"] = absmax
    parts["m.weight.quant_map"] = values
    parts["m.weight.quant_state.bitsandbytes__nf4"] = state(shape, **fields)
    weights = np.array([values[c] * absmax[i // block] for i, c in enumerate(codes)], F32)
    return parts, weights.reshape(shape)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("shape", "block"), [((16, 160), 64), ((300, 70), 64), ((7, 30), 64), ((8, 512), 256)]
)
def test_bitsandbytes_4_bits(
    tmp_path: Path, shape: tuple[int, int], block: int, nested: bool
) -> None:
    parts, weights = four_bits(shape, nested=nested, block=block)
    found = assembled(tmp_path, "bitsandbytes", parts)
    assert found.keys() == {"m.weight"}
    assert found["m.weight"].encoding == "bitsandbytes nf4"
    check(found["m.weight"], weights)


def test_bitsandbytes_stored_as_another_type(tmp_path: Path) -> None:
    parts, weights = four_bits((16, 160), nested=True)
    parts["m.weight"] = parts["m.weight"].reshape(-1).view(np.uint16)[:, None]  # bfloat16
    check(assembled(tmp_path, "bitsandbytes", parts)["m.weight"], weights)


def test_bitsandbytes_8_bits(tmp_path: Path) -> None:
    rng = random(0)
    codes = rng.integers(-127, 128, (10, 24)).astype(np.int8)
    scales = rng.uniform(1, 9, 10).astype(F32)
    parts = {"m.weight": codes, "m.SCB": scales, "m.weight_format": np.zeros((), np.uint8)}
    expected = codes.astype(F32) * scales[:, None] * F32(1 / 127)
    check(assembled(tmp_path, "bitsandbytes", parts)["m.weight"], expected)
    parts["m.weight_format"] = np.ones((), np.uint8)
    with pytest.raises(ConvertError, match="expected 8 bits in rows, weight_format 0, found SCB"):
        assembled(tmp_path, "bitsandbytes", parts)
    parts = {"m.weight": codes, "m.SCB": scales[1:]}
    with pytest.raises(ConvertError, match="expected weight and SCB of bitsandbytes in 8 bits"):
        assembled(tmp_path, "bitsandbytes", parts)


STATE = "m.weight.quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {STATE: np.zeros(5, np.uint8)},
            "expected a quant_state, found weight",
        ),
        ({STATE: state((16, 160), blocksize=48)}, "expected a quant_state, found weight"),
        ({STATE: state((16, 160), blocksize=64.0)}, "expected a quant_state, found weight"),
        ({STATE: state((16, -160))}, "expected a quant_state, found weight"),
        ({STATE: state((16, True))}, "expected a quant_state, found weight"),
        ({STATE: np.frombuffer(b"[1]", np.uint8)}, "expected a quant_state, found weight"),
        ({STATE: state((16, 162))}, r"expected weight, absmax and quant_map of nf4 for \(16, 162"),
        ({"m.weight.absmax": np.ones(39, F32)}, "expected weight, absmax and quant_map of nf4"),
        ({"m.weight.quant_map": np.ones(15, F32)}, "expected weight, absmax and quant_map of nf4"),
        ({"m.weight.nested_absmax": None}, "expected weight, absmax and quant_map of nf4"),
        ({"m.weight.nested_quant_map": np.ones(9, F32)}, "expected weight, absmax and quant_map"),
        ({"m.weight.absmax": None}, "expected weight.absmax beside it, found none"),
    ],
)
def test_bitsandbytes_parts_that_do_not_fit(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    parts, _ = four_bits((16, 160), nested=True)
    parts = {n: a for n, a in (parts | change).items() if a is not None}
    with pytest.raises(ConvertError, match=message):
        assembled(tmp_path, "bitsandbytes", parts)


# ---- HQQ


PACKINGS = {8: ("8bit_u8", 1), 4: ("4bit_u8", 2), 3: ("3bit_32", 10), 2: ("2bit_u8", 4)}
PACKINGS[1] = ("1bit_u8", 8)


def text(value: str) -> Any:
    return np.frombuffer(value.encode(), np.uint8)


def hqq(bits: int, axis: int, shape: tuple[int, int], group: int) -> tuple[dict, Any]:
    rng, count = random(bits), shape[0] * shape[1]
    groups = count // group
    lines = (groups, group) if axis == 1 else (group, groups)
    codes = rng.integers(0, 1 << bits, lines)
    spread = (groups, 1) if axis == 1 else (1, groups)
    scale, zero = (rng.normal(size=spread).astype(np.float16) for _ in "sz")
    weights = ((codes.astype(F32) - zero.astype(F32)) * scale.astype(F32)).reshape(shape)
    name, parts = PACKINGS[bits]
    padded = np.zeros((-(-lines[0] // parts) * parts, lines[1]), np.int64)
    padded[: lines[0]] = codes
    packed = np.zeros((len(padded) // parts, lines[1]), np.int64)
    for i, part in enumerate(np.split(padded, parts)):
        packed |= part << (parts - 1 - i) * bits
    return {
        "m.W_q": packed.astype(np.int32 if bits == 3 else np.uint8),
        "m.scale": scale,
        "m.zero": zero,
        "m.shape": np.array(shape, np.int32),
        "m.nbits": np.array(bits, np.int32),
        "m.group_size": np.array(group, np.int32),
        "m.axis": np.array(axis, np.int32),
        "m.packing": text(name),
        "m.view_as_float": np.array(0, np.uint8),
    }, weights


@pytest.mark.parametrize("bits", PACKINGS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("shape", "group"), [((24, 64), 64), ((16, 96), 32), ((16, 32), 64)])
def test_hqq(tmp_path: Path, bits: int, axis: int, shape: tuple[int, int], group: int) -> None:
    parts, weights = hqq(bits, axis, shape, group)
    found = assembled(tmp_path, "hqq", parts)
    assert found.keys() == {"m.weight"}
    check(found["m.weight"], weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m.axis": np.array(2)}, "expected a known packing, axis, shape and group size of HQQ"),
        ({"m.nbits": np.array(3)}, "expected a known packing, axis, shape and group size of HQQ"),
        ({"m.packing": text("5bit")}, "expected a known packing, axis, shape and group size of H"),
        ({"m.group_size": np.array(60)}, "expected a known packing, axis, shape and group size"),
        ({"m.group_size": np.array(0)}, "expected a known packing, axis, shape and group size"),
        ({"m.shape": np.array([24, -64])}, "expected a known packing, axis, shape and group size"),
        ({"m.shape": np.array([24])}, "expected a known packing, axis, shape and group size"),
        ({"m.axis": np.zeros(0, np.int32)}, "expected a known packing, axis, shape and group si"),
        ({"m.shape": np.zeros(99)}, "expected settings of HQQ of a few numbers"),
        ({"m.scale": np.ones(23, F32)}, r"expected W_q \(12, 64\) of U8 and 24 scales and zeros"),
        ({"m.W_q": np.zeros((12, 63), np.uint8)}, r"expected W_q \(12, 64\) of U8 and 24 scales"),
        ({"m.axis": None}, "expected axis beside it, found none"),
    ],
)
def test_hqq_parts_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    parts, _ = hqq(4, 1, (24, 64), 64)
    parts = {n: a for n, a in (parts | change).items() if a is not None}
    with pytest.raises(ConvertError, match=message):
        assembled(tmp_path, "hqq", parts)


# ---- compressed-tensors


def spread(scale: Any, shape: tuple[int, int]) -> Any:
    """Repeat scales (a, b) over equal shares of a shape."""
    rows, columns = (-(-n // m) for n, m in zip(shape, scale.shape, strict=True))
    whole = np.repeat(np.repeat(scale, rows, axis=0), columns, axis=1)
    return whole[: shape[0], : shape[1]].astype(F32)


@pytest.mark.parametrize("bits", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("zeros", [None, "packed", "plain"])
def test_packed(tmp_path: Path, bits: int, groups: int, zeros: str | None) -> None:
    rng, shape, half = random(bits), (24, 160), 1 << bits - 1
    codes = rng.integers(0, 1 << bits, shape)
    scale = bf16(rng.uniform(0.1, 1, (24, groups)))
    parts = {
        "m.weight_packed": stream(codes, bits, "<i4"),
        "m.weight_scale": scale,
        "m.weight_shape": np.array(shape, np.int64),
        "m.input_scale": np.ones(1, F32),
    }
    zero = np.zeros((24, groups), np.int64)
    if zeros:
        zero = rng.integers(-half, half, (24, groups))
        parts["m.weight_zero_point"] = (
            np.ascontiguousarray(stream((zero + half).T, bits, "<i4").T)
            if zeros == "packed"
            else zero.astype(np.int8)
        )
    expected = (codes - half - spread(zero, shape)).astype(F32) * spread(widen(scale), shape)
    found = assembled(tmp_path, "compressed-tensors", parts)
    assert found.keys() == {"m.weight"}
    check(found["m.weight"], expected)


@pytest.mark.parametrize(("bits", "columns"), [(4, 21), (3, 45), (5, 160)])
def test_packed_columns_need_not_fill_words(tmp_path: Path, bits: int, columns: int) -> None:
    rng, shape, half = random(0), (6, columns), 1 << bits - 1
    codes = rng.integers(0, 1 << bits, shape)
    parts = {
        "m.weight_packed": stream(codes, bits, "<i4"),
        "m.weight_scale": np.full((6, 1), 0.5, F32),
        "m.weight_shape": np.array(shape, np.int64),
    }
    found = assembled(tmp_path, "compressed-tensors", parts)["m.weight"]
    check(found, (codes - half) * F32(0.5))


def test_packed_with_scattered_groups(tmp_path: Path) -> None:
    rng, shape = random(0), (8, 64)
    codes, g_idx = rng.integers(0, 16, shape), rng.permutation(np.arange(64) // 16)
    scale = rng.uniform(0.1, 1, (8, 4)).astype(F32)
    parts = {
        "m.weight_packed": stream(codes, 4, "<i4"),
        "m.weight_scale": scale,
        "m.weight_shape": np.array(shape, np.int64),
        "m.weight_g_idx": g_idx.astype(np.int32),
    }
    found = assembled(tmp_path, "compressed-tensors", parts)
    check(found["m.weight"], (codes - 8).astype(F32) * scale[:, g_idx])
    parts["m.weight_g_idx"] = parts["m.weight_g_idx"] + 1
    with pytest.raises(ConvertError, match="expected groups below those of weight_scale, found"):
        assembled(tmp_path, "compressed-tensors", parts)["m.weight"].read_rows(0, 1)


@pytest.mark.parametrize("scale_shape", [(24, 1), (24,), (1,), (), (24, 5), (3, 2)])
@pytest.mark.parametrize("kind", ["int8", "float8"])
@pytest.mark.parametrize("marker", ["weight_scale", "weight_scale_inv"])
def test_whole_bytes(tmp_path: Path, scale_shape: tuple[int, ...], kind: str, marker: str) -> None:
    rng, shape = random(1), (24, 160)
    codes = rng.integers(0, 127, shape).astype(np.int8)  # not the NaN of E4M3
    scale = rng.uniform(0.1, 1, scale_shape).astype(F32)
    values = codes.astype(F32) if kind == "int8" else E4M3[codes]
    table = scale if scale.ndim == 2 else scale.reshape(-1, 1)
    dtypes = {} if kind == "int8" else {"m.weight": "F8_E4M3"}
    parts = {"m.weight": codes, f"m.{marker}": scale, "m.k_scale": np.ones(1, F32)}
    found = assembled(tmp_path, "fp8", parts, dtypes=dtypes)
    check(found["m.weight"], values * spread(table, shape))


def test_blocks_need_not_divide_the_matrix(tmp_path: Path) -> None:
    rng, shape = random(1), (5, 7)
    codes, scale = rng.integers(0, 127, shape).astype(np.int8), rng.normal(size=(3, 4)).astype(F32)
    found = assembled(tmp_path, "fp8", {"m.weight": codes, "m.weight_scale_inv": scale})
    check(found["m.weight"], codes.astype(F32) * spread(scale, shape))


@pytest.mark.parametrize(
    ("shape", "block", "settings"),
    [
        ((34, 40), (16, 16), {}),  # powers of two need not be told
        ((36, 40), (24, 24), {"weight_block_size": [24, 24]}),
        ((36, 40), (24, 24), {"config_groups": {"a": {"weights": {"block_structure": [24, 24]}}}}),
        ((48, 32), (16, 32), {"weight_block_size": "often", "config_groups": [1]}),
    ],
)
def test_blocks_of_rows_and_columns(
    tmp_path: Path, shape: tuple[int, int], block: tuple[int, int], settings: dict[str, Any]
) -> None:
    rng = random(3)
    codes = rng.integers(0, 127, shape).astype(np.int8)
    scale = rng.normal(size=[-(-n // b) for n, b in zip(shape, block, strict=True)]).astype(F32)
    parts = {"m.weight": codes, "m.weight_scale_inv": scale}
    found = assembled(tmp_path, "fp8", parts, settings, {"m.weight": "F8_E4M3"})
    whole = scale.repeat(block[0], axis=0).repeat(block[1], axis=1)[: shape[0], : shape[1]]
    check(found["m.weight"], E4M3[codes] * whole)


def test_nvfp4(tmp_path: Path) -> None:
    rng, shape = random(2), (6, 64)
    codes = rng.integers(0, 16, shape)
    scales = rng.integers(1, 127, (6, 4)).astype(np.uint8)
    parts = {
        "m.weight_packed": stream(codes, 4, "u1"),
        "m.weight_scale": scales,
        "m.weight_global_scale": np.array([300.0], F32),
    }
    found = assembled(tmp_path, "compressed-tensors", parts, dtypes={"m.weight_scale": "F8_E4M3"})
    expected = FP4[codes] * np.repeat(E4M3[scales] / F32(300), 16, axis=1)
    check(found["m.weight"], expected)
    del parts["m.weight_global_scale"]
    with pytest.raises(ConvertError, match="expected weight_global_scale of one number, found"):
        assembled(tmp_path, "compressed-tensors", parts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m.weight_shape": None}, "expected weight_packed as weight_shape, found"),
        ({"m.weight_shape": np.array([8, 65])}, "expected weight_packed as weight_shape, found"),
        ({"m.weight_shape": np.array([7, 64])}, "expected weight_packed as weight_shape, found"),
        ({"m.weight_packed": None}, "expected weight of int8 or float8, found weight_scale"),
        ({"m.weight_scale": np.ones((9, 4), F32)}, "expected scales, zeros and groups of the mat"),
        ({"m.weight_scale": np.ones((8, 0), F32)}, "expected scales, zeros and groups of the mat"),
        ({"m.weight_scale": np.ones((8, 4), np.int8)}, "expected scales, zeros and groups of the"),
        ({"m.weight_g_idx": np.zeros(63, np.int32)}, "expected scales, zeros and groups of the m"),
        ({"m.weight_zero_point": np.zeros((2, 4), np.int8)}, "expected scales, zeros and groups"),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    parts = {
        "m.weight_packed": np.zeros((8, 8), np.int32),
        "m.weight_scale": np.ones((8, 4), F32),
        "m.weight_shape": np.array([8, 64]),
    }
    parts = {n: a for n, a in (parts | change).items() if a is not None}
    with pytest.raises(ConvertError, match=message):
        assembled(tmp_path, "compressed-tensors", parts)
