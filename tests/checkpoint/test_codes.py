"""Codes and scales of quantized matrices are their values exactly, or are not given at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import MIXTRAL
from quantized_parts import assembled, bf16, random, stream
from test_encodings_by_blocks import four_bits, hqq
from test_encodings_by_groups import gptq

import cpumix
import cpumix.checkpoint.tensor
from cpumix.checkpoint import SourceTensor
from cpumix.checkpoint.as_is import is_quantized
from cpumix.checkpoint.containers import read_tensors
from cpumix.checkpoint.containers.gguf import read_gguf
from cpumix.checkpoint.encodings import assemble
from cpumix.checkpoint.encodings.ggml import GGML_TYPES
from cpumix.checkpoint.encodings.plain import PlainMatrix
from cpumix.checkpoint.matrix import Matrix, code_values, coded, read_codes
from cpumix.checkpoint.stored import StoredTensor
from cpumix.checkpoint.views import HalfSplit, RowRange, Transposed
from cpumix.config import Role, TensorSpec
from cpumix.errors import ConvertError

F32 = np.float32
SPEC = TensorSpec("m", (24, 128), Role.OUTPUT)
CONFIG = MIXTRAL
Parts = dict[str, Any]


def check(matrix: Matrix, is_exact: bool = True) -> None:
    """Compare codes times scales with the rows, in slices."""
    rows = matrix.shape[0]
    for start, stop in ((0, 3), (3, rows), (0, rows)):
        found = read_codes(matrix, start, stop)
        expected = matrix.read_rows(start, stop)
        assert (found is not None) is is_exact
        if found is not None:
            values = found.codes.astype(F32) * found.scales.astype(F32).repeat(32, axis=1)
            assert np.array_equal(values, expected)


def zeros(shape: tuple[int, int]) -> tuple[Any, Any]:
    stored = random(0).integers(0, 15, shape)
    return stored, stored + 1


@pytest.mark.parametrize("name", ["Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "MXFP4"])
def test_types_of_ggml(tmp_path: Path, name: str) -> None:
    kind = next(kind for kind in GGML_TYPES.values() if kind.name == name)
    rng = random(1)
    data = rng.integers(0, 256, (16 * 3, kind.nbytes)).astype(np.uint8)
    scales = rng.uniform(-1, 1, len(data)).astype(np.float16)
    data[:, :2] = scales.view(np.uint8).reshape(-1, 2)
    if name == "MXFP4":
        data[:, 0] = rng.integers(110, 140, len(data))
    if name == "Q8_0":
        data[:, 2:][data[:, 2:] == 128] = 127  # -128 is not a code of ours
    (tmp_path / "x").write_bytes(data.tobytes())
    stored = StoredTensor(tmp_path / "x", name, (16, 96), 0, data.nbytes)
    check(assemble({"m": stored}, "ggml", {})["m"])
    data[5, :2] = 0xFF  # NaN, or a power of two that float16 does not have
    (tmp_path / "x").write_bytes(data.tobytes())
    assert read_codes(assemble({"m": stored}, "ggml", {})["m"], 0, 16) is None


def test_code_below_ours(tmp_path: Path) -> None:
    data = np.zeros((16, 34), np.uint8)
    data[3, 9] = 128
    (tmp_path / "x").write_bytes(data.tobytes())
    matrix = assemble({"m": StoredTensor(tmp_path / "x", "Q8_0", (16, 32), 0, 544)}, "ggml", {})
    assert read_codes(matrix["m"], 0, 3) is not None
    assert read_codes(matrix["m"], 0, 4) is None


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq(tmp_path: Path, bits: int) -> None:
    def low(shape: tuple[int, int]) -> tuple[Any, Any]:
        stored = random(0).integers(0, (1 << bits) - 1, shape)
        return stored, stored + 1

    parts, _ = gptq(random(bits), bits, zeros=low)
    check(assembled(tmp_path, "gptq", parts, {"bits": bits, "sym": False})["m.weight"])
    parts, _ = gptq(random(bits), bits, zeros=low, act_order=True)
    check(assembled(tmp_path, "gptq", parts, {"bits": bits, "sym": False})["m.weight"], False)


def awq() -> Parts:
    rng = random(4)
    words = rng.integers(0, 1 << 31, (96 + 3, 4)).astype(np.int32)
    scales = rng.uniform(0.1, 1, (3, 32)).astype(np.float16)
    return {"m.qweight": words[:96], "m.qzeros": words[96:], "m.scales": scales}


def packed(scale: Any, columns: int = 160) -> Parts:
    codes = random(5).integers(0, 16, (24, columns))
    shape = np.array(codes.shape, np.int64)
    words = stream(codes, 4, "<i4")
    return {"m.weight_packed": words, "m.weight_scale": scale, "m.weight_shape": shape}


def uniform(*shape: int) -> Any:
    return bf16(random(6).uniform(0.1, 1, shape))


def mxfp4(low: int, high: int) -> Parts:
    rng = random(7)
    scales = rng.integers(low, high, (24, 5)).astype(np.uint8)
    return {"m.weight": stream(rng.integers(0, 16, (24, 160)), 4), "m.scales": scales}


def int8() -> Parts:
    codes = random(8).integers(-127, 128, (24, 160)).astype(np.int8)
    return {"m.weight": codes, "m.weight_scale": uniform(24, 1)}


def affine() -> Parts:
    parts = mxfp4(0, 1)
    scales = np.ones((24, 5), np.float16)
    return {"m.weight": parts["m.weight"], "m.scales": scales, "m.biases": -8 * scales}


@pytest.mark.parametrize(
    ("encoding", "make", "settings", "is_exact"),
    [
        ("awq", awq, {}, True),
        ("compressed-tensors", lambda: packed(uniform(24, 5)), {}, True),
        ("compressed-tensors", lambda: packed(uniform(24, 1)), {}, True),
        ("compressed-tensors", lambda: packed(uniform(24, 10)), {}, False),  # groups of 16
        ("compressed-tensors", lambda: packed(uniform(24, 1) // 2), {}, False),  # below float16
        ("compressed-tensors", lambda: packed(uniform(24, 1), columns=168), {}, False),
        ("compressed-tensors", int8, {}, True),
        ("mlx", lambda: mxfp4(110, 140), {"mode": "mxfp4"}, True),
        ("mlx", lambda: mxfp4(10, 20), {"mode": "mxfp4"}, False),
        ("mlx", affine, {"bits": 4, "group_size": 32}, False),  # a bias, even if it could be none
        ("bitsandbytes", lambda: four_bits((16, 160), nested=True)[0], {}, False),
        ("hqq", lambda: hqq(4, 1, (24, 64), 64)[0], {}, False),
    ],
)
def test_other_encodings(
    tmp_path: Path, encoding: str, make: Callable[[], Parts], settings: Parts, is_exact: bool
) -> None:
    check(assembled(tmp_path, encoding, make(), settings)["m.weight"], is_exact)


def test_views(tmp_path: Path) -> None:
    parts, _ = gptq(random(4), 4, zeros=zeros)
    matrix = assembled(tmp_path, "gptq", parts, {"bits": 4, "sym": False})["m.weight"]
    check(RowRange(matrix, 5, 40))
    check(HalfSplit(matrix, 8))
    check(Transposed(matrix), is_exact=False)
    (tmp_path / "plain").write_bytes(bytes(4096))
    check(PlainMatrix(StoredTensor(tmp_path / "plain", "F16", (32, 32), 0, 2048)), is_exact=False)


def symmetric(shape: tuple[int, int]) -> tuple[Any, Any]:
    return np.full(shape, 7), np.full(shape, 8)


@pytest.mark.parametrize(
    ("encoding", "make", "settings", "values"),
    [
        ("gptq", lambda: gptq(random(1), 4, zeros=symmetric)[0], {"bits": 4}, range(-8, 8)),
        ("gptq", lambda: gptq(random(1), 4, zeros=zeros)[0], {"bits": 4, "sym": False}, None),
        (
            "gptq",
            lambda: gptq(random(1), 4, zeros=symmetric, act_order=True)[0],
            {"bits": 4},
            None,
        ),
        ("awq", awq, {}, None),
        ("compressed-tensors", lambda: packed(uniform(24, 5)), {}, range(-8, 8)),
        ("compressed-tensors", lambda: packed(uniform(24, 10)), {}, None),
        ("compressed-tensors", int8, {}, None),
        ("mlx", lambda: mxfp4(110, 140), {"mode": "mxfp4"}, (1, 2, 3, 4, 6, 8, 12)),
        ("mlx", affine, {"bits": 4, "group_size": 32}, None),
    ],
)
def test_values_of_codes(
    tmp_path: Path, encoding: str, make: Callable[[], Parts], settings: Parts, values: Any
) -> None:
    matrix = assembled(tmp_path, encoding, make(), settings)["m.weight"]
    if encoding == "mlx" and values is not None:
        values = (*(-v for v in values[::-1]), 0, *values)
    assert code_values(matrix) == (None if values is None else tuple(values))
    assert code_values(RowRange(matrix, 0, 16)) == code_values(matrix)
    assert code_values(Transposed(matrix)) is None
    if values is not None:
        found = read_codes(matrix, 0, matrix.shape[0])
        assert found is not None and set(np.unique(found.codes)) <= set(values)


def test_number_that_is_none_is_found_with_a_book_too(tmp_path: Path) -> None:
    from test_quantized_sources import write

    write(tmp_path / "source", "compressed-tensors")
    shard = tmp_path / "source" / "model.safetensors"
    stored = read_tensors(shard)["model.layers.0.block_sparse_moe.experts.1.w1.weight_scale"]
    with open(shard, "r+b") as file:
        file.seek(stored.offset)
        file.write(np.array([np.nan], np.float16).tobytes())
    tokenizer = Path(__file__).parents[1] / "data/tokenizer/small.model"
    (tmp_path / "source" / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    with pytest.raises(ConvertError, match="expected finite weights, found NaN"):
        cpumix.convert(tmp_path / "source", tmp_path / "x.bin", "int4")


def test_scales_that_float16_does_not_have() -> None:
    codes = np.ones((4, 64), np.int16)
    assert coded(codes, np.full((4, 2), 0.1, np.float16)) is not None
    for scale in (0.1, 1e9, np.nan):
        assert coded(codes, np.full((4, 2), scale, np.float32)) is None
    assert coded(128 * codes, np.ones((4, 2), F32)) is None
    assert coded(-127 * codes, np.ones((4, 2), F32)) is not None


# ---- through to the model file


def write_as(name: str, place: Path) -> Path:
    """Write a GGUF file whose matrices are all of one type, and return its path."""
    from test_gguf_source import make

    def edit(_: Parts, tensors: Parts) -> None:
        kind = next(kind for kind in GGML_TYPES.values() if kind.name == name)
        for tensor, (_, shape, _) in list(tensors.items()):
            if len(shape) > 1 and "gate_inp" not in tensor:
                rng = random(len(tensor))
                blocks = rng.integers(1, 127, (int(np.prod(shape)) // 32, kind.nbytes))
                blocks = blocks.astype(np.uint8)
                blocks[:, :2] = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
                if name == "MXFP4":
                    blocks[:, 0] = 120
                tensors[tensor] = tensors[tensor]._replace(kind=name, data=blocks.tobytes())

    config = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
    path, _ = make(place / "x.gguf", CONFIG | config, edit=edit)
    return path


@pytest.mark.parametrize(("precision", "times"), [("int8", 0), ("int4", 1), ("as-is", 1)])
def test_codes_are_looked_at_once_where_they_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, times: int
) -> None:
    looked_at: list[Matrix] = []

    def counted(matrix: Matrix) -> tuple[int, ...] | None:
        looked_at.append(matrix)
        return code_values(matrix)

    monkeypatch.setattr(cpumix.checkpoint.tensor, "code_values", counted)
    cpumix.convert(write_as("Q4_0", tmp_path), tmp_path / "x.bin", precision)
    experts = 3 * CONFIG["num_hidden_layers"] * CONFIG["num_local_experts"]
    assert len(looked_at) == times * experts


@pytest.mark.parametrize("name", ["Q8_0", "IQ4_NL", "Q4_0", "MXFP4"])
def test_model_file_has_the_same_numbers(tmp_path: Path, name: str) -> None:
    from cpumix.checkpoint import open_checkpoint
    from cpumix.quant import FORMATS
    from cpumix.store.reader import ModelFile

    path = write_as(name, tmp_path)
    assert read_gguf(path).tensors
    report = cpumix.convert(path, tmp_path / "x.bin", "as-is")
    assert report.precision == ("int8" if name == "Q8_0" else "int4")
    assert all(loss.exact for loss in report.losses)
    assert [loss.tensors for loss in report.losses] == [24, 10]
    assert str(report.losses[0]).startswith(f"experts: 24 tensors of {name} as q")
    assert report.notes == ()
    source = open_checkpoint(path).tensors
    with ModelFile(tmp_path / "x.bin") as file:
        books = {entry.book for entry in file.tensors.values() if entry.format == "q4"}
        expected = {"Q8_0": set(), "Q4_0": {tuple(range(-8, 8))}, "IQ4_NL": {None}}
        assert name == "MXFP4" or books == expected[name]
        for entry in file.tensors.values():
            if entry.format == "f32":
                continue
            data, at = file.data(entry.name), 0
            for part, format_name in entry.parts:
                tensor, kind = source[part], FORMATS[format_name]
                size = kind.nbytes(*tensor.shape)
                tiles = data[at : at + size].reshape(kind.shape(*tensor.shape))
                books = () if entry.book is None else (np.array(entry.book, np.int8),)
                found = kind.dequantize(tiles, *tensor.shape, *books)
                assert np.array_equal(found, tensor.read_rows(0, tensor.shape[0])), part
                at += size


def test_rounding_twice_is_told(tmp_path: Path) -> None:
    from test_quantized_sources import write

    write(tmp_path / "source", "awq")
    tokenizer = Path(__file__).parents[1] / "data/tokenizer/small.model"
    (tmp_path / "source" / "tokenizer.model").write_bytes(tokenizer.read_bytes())
    report = cpumix.convert(tmp_path / "source", tmp_path / "x.bin", "int4")
    experts = next(loss for loss in report.losses if loss.part == "experts")
    assert 0.01 < experts.relative_rms < 0.2 and not experts.exact
    assert "relative RMS error 0." in str(experts)
    assert "weights of AWQ 4 bits were quantized once more" in report.notes[0]
    report = cpumix.convert(tmp_path / "source", tmp_path / "x.bin", "as-is", force=True)
    assert report.precision == "int8"
    assert next(loss for loss in report.losses if loss.part == "experts").exact
    assert report.notes == ()


@pytest.mark.parametrize(("bits", "group"), [(8, 32), (8, 64), (2, 128)])
def test_weights_with_scales_and_biases_are_quantized(
    tmp_path: Path, bits: int, group: int
) -> None:
    weight = stream(np.zeros((24, 128), np.int64), bits)
    scales = np.ones((24, 128 // group), np.float16)
    parts = {"m.weight": weight, "m.scales": scales, "m.biases": scales}
    matrix = assembled(tmp_path, "mlx", parts, {"bits": bits, "group_size": group})["m.weight"]
    assert is_quantized(SourceTensor(SPEC, "m", matrix))


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F16", "BF16", "F32"])
def test_floats_are_not_quantized(tmp_path: Path, dtype: str) -> None:
    size = {"F8_E4M3": 1, "F32": 4}.get(dtype, 2)
    stored = StoredTensor(tmp_path / "x", dtype, (8, 32), 0, 8 * 32 * size)
    assert not is_quantized(SourceTensor(SPEC, "m", PlainMatrix(stored)))


@pytest.mark.parametrize(("dtype", "precision"), [("BF16", "bf16"), ("F32", "bf16")])
def test_weights_that_were_not_quantized(tmp_path: Path, dtype: str, precision: str) -> None:
    from checkpoints import MIXTRAL, write_checkpoint

    write_checkpoint(tmp_path / "source", MIXTRAL, dtype=dtype, vocab_size=600)
    report = cpumix.convert(tmp_path / "source", tmp_path / "x.bin", "as-is")
    assert report.precision == precision
    assert all(loss.exact for loss in report.losses) is (dtype == "BF16")
    assert all(loss.relative_rms == 0 for loss in report.losses)  # they were bfloat16 before
