"""Exported GGUF files: the same numbers, the same tokenizer, and what llama.cpp wants to know."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LLAMA, MISTRAL, MIXTRAL, write_checkpoint
from click.testing import CliRunner
from gguf_files import TOKENIZERS, head_dim, to_pairs
from oracle_cases import OLMOE, QWEN2, QWEN3, QWEN3_MOE

import cpumix
from cpumix.checkpoint import open_checkpoint
from cpumix.checkpoint.containers.gguf import read_gguf
from cpumix.checkpoint.encodings.ggml import GGML_TYPES, dequantize
from cpumix.cli.main import main
from cpumix.config import ModelConfig
from cpumix.config.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
    yarn_attention_factor,
)
from cpumix.errors import ConvertError, FormatError
from cpumix.exporter.metadata import NORMS_TOPK, model_metadata
from cpumix.quant import FLOAT32, FORMATS, nbytes
from cpumix.quant.precision import CODED, Precision, parts_of
from cpumix.store import ModelFile
from cpumix.tokenizer import Tokenizer

SIZES = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96}  # whole blocks of 32
ODD = {"vocab_size": 300, "hidden_size": 40, "intermediate_size": 56}
NAMES = {"q8": "Q8_0", "q6": "Q8_0", "q4s": "Q8_0", "q4": "IQ4_NL", "bf16": "BF16", FLOAT32: "F32"}
KINDS = {kind.name: kind for kind in GGML_TYPES.values()}


def make(folder: Path, config: dict[str, Any], precision: str | Precision) -> Path:
    """Write a model file of a tiny checkpoint."""
    write_checkpoint(folder / "hf", config)
    cpumix.convert(folder / "hf", folder / "model.bin", precision)
    return folder / "model.bin"


def numbers_in(model: Path) -> dict[str, np.ndarray]:
    """Return every matrix and vector of a model file as float32, by canonical name."""
    found = {}
    with ModelFile(model) as file:
        for spec in file.config.tensors():
            expert = spec.expert is not None
            whole = file.expert_name(spec.layer or 0, spec.expert or 0) if expert else spec.name
            kind, data = file.tensors[whole].format, file.data(whole)
            if expert:
                parts = list(file.config.expert_tensors(spec.layer or 0, spec.expert or 0))
                kinds = parts_of(kind)
                sizes = [nbytes(k, part.shape) for k, part in zip(kinds, parts, strict=True)]
                at = [part.name for part in parts].index(spec.name)
                kind, data = kinds[at], data[sum(sizes[:at]) : sum(sizes[: at + 1])]
            if kind == FLOAT32:
                found[spec.name] = data.view(np.float32).reshape(spec.shape).copy()
                continue
            n, k = spec.shape
            tiles = data.reshape(FORMATS[kind].shape(n, k))
            found[spec.name] = FORMATS[kind].dequantize(tiles, n, k)
    return found


CONFIGS = {
    "mixtral": MIXTRAL | SIZES,
    "mistral": MISTRAL | SIZES,
    "llama": LLAMA | SIZES,
    "llama with biases": LLAMA | SIZES | {"attention_bias": True},
    "qwen2": QWEN2 | SIZES,
    "qwen3": QWEN3 | SIZES | {"head_dim": 32},
    "qwen3moe": QWEN3_MOE | SIZES | {"head_dim": 32},
    "olmoe": OLMOE | SIZES,
    "odd sizes": MIXTRAL | ODD,
}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "int8", CODED, "int4"], ids=str)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_number_is_the_same(
    tmp_path: Path, config: dict[str, Any], precision: str | Precision
) -> None:
    """What is exported opens as the checkpoint whose weights are those of the model file."""
    model = make(tmp_path, config, precision)
    report = cpumix.export(model, tmp_path / "m.gguf")
    assert report.file_bytes == (tmp_path / "m.gguf").stat().st_size
    exported, expected = open_checkpoint(tmp_path / "m.gguf"), numbers_in(model)
    assert list(exported.tensors) == list(expected)
    with ModelFile(model) as file:
        family = exported.config.architecture  # Mistral without a window is Llama
        assert exported.config == replace(file.config, architecture=family)
        formats = {t.format for t in file.tensors.values()}
    whole_blocks = config["hidden_size"] % 32 == 0
    for name, tensor in exported.tensors.items():
        rows = tensor.read_rows(0, tensor.shape[0])
        wide = rows if rows.dtype == np.float32 else (rows.astype(np.uint32) << 16).view(np.float32)
        # Scales of rows with scales are products of two numbers, rounded to float16.
        rounded = 2**-11 if precision == "int4" and whole_blocks else 0
        np.testing.assert_allclose(wide, expected[name], rtol=rounded, atol=0, err_msg=name)
    assert report.types.keys() == ({NAMES[f] for f in formats} if whole_blocks else {"F32"})


@pytest.mark.parametrize("config", [MIXTRAL | SIZES, LLAMA | SIZES], ids=["mixtral", "llama"])
def test_bfloat16_converts_back_to_the_same_bytes(tmp_path: Path, config: dict[str, Any]) -> None:
    model = make(tmp_path, config, "bf16")
    cpumix.export(model, tmp_path / "m.gguf")
    cpumix.convert(tmp_path / "m.gguf", tmp_path / "again.bin", "bf16")
    with ModelFile(model) as ours, ModelFile(tmp_path / "again.bin") as theirs:
        assert ours.tensors.keys() == theirs.tensors.keys()
        for name in ours.tensors:
            assert bytes(ours.data(name)) == bytes(theirs.data(name)), name


def test_infinite_scale_of_a_gguf_file_is_refused_by_convert(tmp_path: Path) -> None:
    cpumix.export(make(tmp_path, LLAMA | SIZES, "int8"), tmp_path / "m.gguf")
    stored = read_gguf(tmp_path / "m.gguf").tensors["blk.1.attn_v.weight"]
    data = bytearray((tmp_path / "m.gguf").read_bytes())
    data[stored.offset : stored.offset + 2] = b"\x00\x7c"
    (tmp_path / "m.gguf").write_bytes(data)
    for precision in ("bf16", "int8", "int4"):
        with pytest.raises(ConvertError, match=r"attn_v.weight.: expected finite weights, found"):
            cpumix.convert(tmp_path / "m.gguf", tmp_path / "again.bin", precision)


def test_q_and_k_have_the_row_order_of_llama_cpp(tmp_path: Path) -> None:
    model = make(tmp_path, MIXTRAL | SIZES, "int8")
    cpumix.export(model, tmp_path / "m.gguf")
    stored = read_gguf(tmp_path / "m.gguf").tensors["blk.1.attn_k.weight"]
    data = np.fromfile(stored.path, np.uint8, stored.nbytes, offset=stored.offset)
    rows = dequantize(data.reshape(stored.rows, -1), KINDS[stored.dtype])
    expected = to_pairs(numbers_in(model)["blk.1.attn_k.weight"], head_dim(MIXTRAL | SIZES))
    np.testing.assert_array_equal(rows, expected)


def test_experts_of_a_layer_lie_in_one_tensor(tmp_path: Path) -> None:
    cpumix.export(make(tmp_path, MIXTRAL | SIZES, CODED), tmp_path / "m.gguf")
    tensors = read_gguf(tmp_path / "m.gguf").tensors
    assert tensors["blk.0.ffn_gate_exps.weight"].shape == (4, 96, 64)
    assert tensors["blk.0.ffn_down_exps.weight"].shape == (4, 64, 96)
    assert tensors["blk.0.ffn_gate_inp.weight"].dtype == "F32"
    assert tensors["blk.0.ffn_up_exps.weight"].dtype == "IQ4_NL"


def test_metadata_are_those_of_llama_cpp(tmp_path: Path) -> None:
    cpumix.export(make(tmp_path, MIXTRAL | SIZES, "int8"), tmp_path / "m.gguf")
    metadata = read_gguf(tmp_path / "m.gguf").metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["general.file_type"] == 7  # mostly Q8_0
    assert metadata["llama.expert_count"] == 4
    assert metadata["llama.vocab_size"] == 300 == len(metadata["tokenizer.ggml.tokens"])
    assert not any(key.startswith("cpumix.") for key in metadata)


SCALINGS = [
    LinearScaling(4.0),
    Llama3Scaling(8.0, 1.0, 4.0, 8192),
    YarnScaling(2.0, 32, 32.0, 1.0, yarn_attention_factor(2.0, None, None), True),
]


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: type(s).__name__)
def test_stretched_rope_comes_back(tmp_path: Path, scaling: RopeScaling) -> None:
    rope = {
        LinearScaling: {"rope_type": "linear", "factor": 4.0},
        Llama3Scaling: {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        YarnScaling: {
            "rope_type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 32,
        },
    }[type(scaling)]
    config = LLAMA | SIZES | {"rope_scaling": rope, "head_dim": 32, "rope_theta": 5e5}
    cpumix.export(make(tmp_path, config, "bf16"), tmp_path / "m.gguf")
    assert open_checkpoint(tmp_path / "m.gguf").config.rope_scaling == scaling


def test_other_attention_factor_of_yarn_is_told(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 2.0, "attention_factor": 2.0}
    rope["original_max_position_embeddings"] = 32
    config = ModelConfig.from_huggingface(LLAMA | SIZES | {"rope_scaling": rope}, "config.json")
    metadata = model_metadata(config, "x", 0)
    factor = metadata["llama.rope.scaling.attn_factor"]
    assert factor * yarn_attention_factor(2.0, None, None) == pytest.approx(2.0)


def test_models_that_llama_cpp_would_run_otherwise_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sums_to_one = OLMOE | SIZES | {"norm_topk_prob": True}
    config = ModelConfig.from_huggingface(sums_to_one, "config.json")
    with pytest.raises(ConvertError, match=r"export: llama.cpp runs olmoe with norm_topk_prob Fal"):
        model_metadata(config, "x", 0)
    monkeypatch.delitem(NORMS_TOPK, "olmoe")
    with pytest.raises(ConvertError, match=r"export: cpumix writes GGUF files of .* found olmoe"):
        model_metadata(config, "x", 0)


def test_damaged_model_and_existing_target_are_refused(tmp_path: Path) -> None:
    model = make(tmp_path, LLAMA | SIZES, "int8")
    target = tmp_path / "m.gguf"
    target.write_bytes(b"mine")
    with pytest.raises(ConvertError, match="found an existing file"):
        cpumix.export(model, target)
    assert target.read_bytes() == b"mine"
    cpumix.export(model, target, force=True)
    with pytest.raises(FormatError, match="a GGUF file written by another program"):
        cpumix.export(target, tmp_path / "again.gguf")
    assert not list(tmp_path.glob(".*.partial"))


def test_command_says_what_it_wrote(tmp_path: Path) -> None:
    model, target = make(tmp_path, LLAMA | SIZES, "int8"), tmp_path / "m.gguf"
    result = CliRunner().invoke(main, ["export", str(model), str(target), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["types"] == {"Q8_0": 16, "F32": 5}
    assert "16 in Q8_0" in result.stderr


def test_demo_model_keeps_its_tokenizer(tmp_path: Path, demo_model: Path) -> None:
    cpumix.export(demo_model, tmp_path / "m.gguf")
    texts = json.loads((TOKENIZERS / "goldens.json").read_text(encoding="utf-8"))["texts"]
    theirs = Tokenizer.from_files(open_checkpoint(tmp_path / "m.gguf").files)
    with ModelFile(demo_model) as file:
        ours = Tokenizer.from_files(file.files)
    assert [theirs.encode(text) for text in texts] == [ours.encode(text) for text in texts]
    assert (theirs.bos_id, theirs.eos_ids) == (ours.bos_id, ours.eos_ids)
