"""What is no checkpoint, or a damaged one, and the sentence that says so."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_folders import (
    CONFIG,
    SINGLE,
    edit_json,
    read_header,
    source_tensors,
    split,
    write,
    write_header,
)
from tiny_checkpoint import Bits, write_safetensors

from cpumix.checkpoint import open_checkpoint
from cpumix.checkpoint.shards import INDEX
from cpumix.errors import ConfigError, ConvertError

TWO = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
W1 = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1989\n"


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        open_checkpoint(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound checkpoint, to be damaged."""
    write(tmp_path / "tiny")
    return tmp_path / "tiny"


# The folder


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "gone", "this checkpoint folder does not exist: .*gone")


def test_file_instead_of_the_folder(folder: Path) -> None:
    message = "expected the folder of a Hugging Face checkpoint, found a file: .*config.json"
    refused(folder / "config.json", message)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind here")
def test_unreadable_folder(folder: Path) -> None:
    folder.chmod(0)
    refused(folder, "cannot read this part of the checkpoint: Permission denied")


def test_folder_of_something_else(tmp_path: Path) -> None:
    refused(tmp_path, "not a checkpoint: expected a Hugging Face folder .* found no shards")


@pytest.mark.parametrize(
    "name",
    ["pytorch_model-00001-of-00019.bin", "consolidated.00.pth", "consolidated.safetensors"],
)
def test_weights_in_another_container(folder: Path, name: str) -> None:
    (folder / SINGLE).rename(folder / name)
    refused(folder, f'expected weights as safetensors in Hugging Face naming, found "{name}"')


def test_missing_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    refused(folder, "no config.json beside the weights in")


def test_missing_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.model").unlink()
    refused(folder, "tokenizer missing: expected tokenizer.model or tokenizer.json in")


# JSON files


@pytest.mark.parametrize("name", ["config.json", INDEX, "generation_config.json"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", r"expected valid JSON, found other text \(Expecting"),
        (b"\xff\xfe{}", r"expected valid JSON, found other text \('utf-8'"),
        (b'{"a": 1, "b": 2, "a": 3}', r'expected valid JSON, .* \("a" occurs twice\)'),
        (b"[" * 100_000, "expected valid JSON, found other text"),
        (b"[]", "expected a JSON object, found list"),
        (POINTER, "expected the file itself, found a git-lfs pointer"),
    ],
)
def test_damaged_json(folder: Path, name: str, text: bytes, message: str) -> None:
    (folder / name).write_bytes(text)
    refused(folder, f'{name}": {message}')


def test_config_that_we_do_not_run(folder: Path) -> None:
    edit_json(folder / "config.json", architectures=["GemmaForCausalLM"])
    with pytest.raises(ConfigError, match=r"config\.json.*GemmaForCausalLM"):
        open_checkpoint(folder)


@pytest.mark.parametrize("eos", [20, -1, "2", [2, 20], True, 2.0])
def test_end_token_outside_the_vocabulary(folder: Path, eos: Any) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=eos)
    refused(folder, "eos_token_id: expected tokens of the vocabulary of 20, found .*generation_con")


@pytest.mark.parametrize("name", ["tokenizer.model", SINGLE])
def test_git_lfs_pointer(folder: Path, name: str) -> None:
    (folder / name).write_bytes(POINTER)
    refused(folder, f'{name}": expected the file itself, found a git-lfs pointer to it')


# The set of shards


def test_index_without_a_weight_map(folder: Path) -> None:
    (folder / INDEX).write_text('{"metadata": {}}')
    refused(folder, rf'{INDEX}": expected a "weight_map" with the shard of each tensor')


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a\\b", "..", "", 3])
def test_index_that_leads_elsewhere(folder: Path, shard: object) -> None:
    edit_json(folder / INDEX, weight_map={"lm_head.weight": shard})
    refused(folder, "expected plain names of shards beside it, found")


def test_shard_of_the_index_is_absent(folder: Path) -> None:
    split(folder, TWO, index=True)
    (folder / TWO[1]).unlink()
    refused(folder, f'shard "{TWO[1]}" is missing although the index names it')


def test_shard_of_the_series_is_absent(folder: Path) -> None:
    split(folder, TWO, index=False)
    (folder / TWO[0]).unlink()
    refused(folder, f'shard "{TWO[0]}" is missing beside "{TWO[1]}"')


@pytest.mark.parametrize("other", TWO)
def test_index_names_the_wrong_shard(folder: Path, other: str) -> None:
    weight_map = split(folder, TWO, index=True)
    tensor = next(name for name, shard in weight_map.items() if shard != other)
    edit_json(folder / INDEX, weight_map={**weight_map, tensor: other})
    refused(folder, f'tensor "{tensor}" is not in the shard that the index names for it, "{other}"')


def test_tensor_in_two_shards(folder: Path) -> None:
    split(folder, TWO, index=False)
    (folder / "more.safetensors").write_bytes((folder / TWO[0]).read_bytes())
    refused(folder, f'lies in two shards, "{TWO[0]}" and "more.safetensors"')


# One shard


@pytest.mark.parametrize("cut", [1, 2000])
def test_truncated_shard(folder: Path, cut: int) -> None:
    size = (folder / SINGLE).stat().st_size
    os.truncate(folder / SINGLE, size - cut)
    refused(folder, f'{SINGLE}": truncated shard: expected {size} bytes, found {size - cut}')


def test_shard_cut_inside_its_header(folder: Path) -> None:
    os.truncate(folder / SINGLE, 100)
    refused(folder, rf'{SINGLE}": truncated shard: expected \d+ bytes, found 100')


@pytest.mark.parametrize("size", [0, 7])
def test_shard_too_short_for_a_header(folder: Path, size: int) -> None:
    os.truncate(folder / SINGLE, size)
    message = "too short for a safetensors shard: expected 8 bytes or more, found"
    refused(folder, f'{SINGLE}": {message} {size}')


def test_absurd_header_size(folder: Path) -> None:
    (folder / SINGLE).write_bytes(b"\xff" * 64)
    refused(folder, rf"header of at most 100000000 bytes, found a size of {2**64 - 1}\.")


def test_bytes_after_the_last_tensor(folder: Path) -> None:
    with open(folder / SINGLE, "ab") as stream:
        stream.write(b"x")
    refused(folder, f'{SINGLE}": bytes after the last tensor: expected')


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{nonsense", "expected valid JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"a": 1, "a": 2}', '"a" occurs twice'),
    ],
)
def test_header_that_is_no_object(folder: Path, header: bytes, message: str) -> None:
    write_header(folder / SINGLE, header)
    refused(folder, f'{SINGLE}": .*{message}')


NO_ENTRY = 'tensor "a": expected a header entry of dtype, shape and two data_offsets, found'
NO_SIZE = 'tensor "a": expected sizes and offsets that a file can have, found shape'


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (1, NO_ENTRY),
        ({}, NO_ENTRY),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0]}, NO_ENTRY),
        ({"dtype": "F32", "shape": 4, "data_offsets": [0, 16]}, NO_ENTRY),
        ({"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}, NO_ENTRY),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, NO_ENTRY),
        ({"dtype": "F32", "shape": ["4"], "data_offsets": [0, 16]}, NO_ENTRY),
        ({"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]}, NO_ENTRY),
        ({"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}, NO_SIZE),
        ({"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}, NO_SIZE),
        ({"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}, NO_SIZE),
        ({"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}, NO_SIZE),
        ({"dtype": "F32", "shape": [2**63], "data_offsets": [0, 16]}, NO_SIZE),
        (
            {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]},
            r'tensor "a": its data_offsets span 16 bytes, expected 20 for F32 of shape \(5,\)',
        ),
        (
            {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]},
            'tensor "a": its data_offsets span 16 bytes',
        ),
        (
            {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
            r'tensor "a" overlaps another one or leaves a gap: expected it at byte \d+, found \d+',
        ),
        ({"dtype": "F32", "shape": [2**30], "data_offsets": [0, 2**32]}, "truncated shard"),
    ],
)
def test_header_entry_that_lies(folder: Path, entry: object, message: str) -> None:
    write_header(folder / SINGLE, {"a": entry}, bytes(16))
    refused(folder, message)


def test_overlapping_tensors(folder: Path) -> None:
    entry = {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}
    write_header(folder / SINGLE, {"a": entry, "b": {**entry, "data_offsets": [4, 12]}}, bytes(12))
    refused(folder, 'tensor "b" overlaps another one or leaves a gap')


# The tensors against the config


def edited(change: Callable[[dict[str, Bits]], Any], fused: bool) -> dict[str, Bits]:
    tensors = source_tensors(fused=fused)
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        (W1, False),
        ("lm_head.weight", False),
        ("model.layers.0.self_attn.q_proj.weight", False),
        ("model.layers.0.block_sparse_moe.gate.weight", False),
        ("model.layers.1.mlp.gate.weight", True),
        ("model.layers.1.mlp.experts.gate_up_proj", True),
        ("model.layers.0.mlp.experts.down_proj", True),
    ],
)
def test_missing_tensor(folder: Path, name: str, fused: bool) -> None:
    write_safetensors(folder / SINGLE, edited(lambda t: t.pop(name), fused))
    refused(folder, f'tensor "{name}" is missing: expected it in a shard in')


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.2.input_layernorm.weight",
        "model.layers.1.block_sparse_moe.experts.3.w1.weight",
        "model.layers.0.self_attn.inv_freq",
    ],
)
def test_unknown_tensor(folder: Path, name: str) -> None:
    tensors = {**source_tensors(), name: np.zeros(8, np.uint16)}
    write_safetensors(folder / SINGLE, tensors)
    refused(folder, f'tensor "{name}" is unknown: MixtralForCausalLM has none of this name')


@pytest.mark.parametrize(
    ("name", "shape", "expected", "fused"),
    [
        (W1, (8, 12), (12, 8), False),
        ("model.embed_tokens.weight", (21, 8), (20, 8), False),
        ("model.norm.weight", (8, 1), (8,), False),
        ("model.layers.0.mlp.experts.gate_up_proj", (3, 8, 24), (3, 24, 8), True),
        ("model.layers.0.mlp.experts.down_proj", (4, 8, 12), (3, 8, 12), True),
    ],
)
def test_wrong_shape(
    folder: Path, name: str, shape: tuple[int, ...], expected: tuple[int, ...], fused: bool
) -> None:
    tensors = {**source_tensors(fused=fused), name: np.zeros(shape, np.uint16)}
    write_safetensors(folder / SINGLE, tensors)
    message = rf'tensor "{name}": expected shape \({str(expected)[1:-1]}\) from config.json, found '
    refused(folder, message + rf"\({str(shape)[1:-1]}\) in ")


def test_experts_with_w2_and_w3_swapped(folder: Path) -> None:
    def swap(tensors: dict[str, Bits]) -> None:
        w2, w3 = W1.replace("w1", "w2"), W1.replace("w1", "w3")
        tensors[w2], tensors[w3] = tensors[w3], tensors[w2]

    write_safetensors(folder / SINGLE, edited(swap, fused=False))
    refused(folder, r'experts\.2\.w[23]\.weight": expected shape')


@pytest.mark.parametrize("dtype", ["I16", "F8_E4M3", "F4_OF_TOMORROW"])
def test_unsupported_dtype(folder: Path, dtype: str) -> None:
    header, data = read_header(folder / SINGLE)
    header[W1]["dtype"] = dtype
    if dtype == "F8_E4M3":
        header[W1]["shape"] = [24, 8]
    write_header(folder / SINGLE, header, data)
    message = f'tensor "{W1}" has an unsupported dtype: expected BF16, F16, F32, found {dtype} in'
    refused(folder, message)


def test_config_of_an_absurdly_larger_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, "num_hidden_layers": 2**30}))
    refused(folder, r"config.json describes \d+ weights in experts alone, but the shards have only")
