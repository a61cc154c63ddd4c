"""Folders of other kinds than transformers' safetensors: every tensor is the one that went in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files
from checkpoints import MISTRAL, MIXTRAL, write_shard
from mistral_weights import MOE, PARAMS, first_release, mistral_names
from tiny_checkpoint import Bits, huggingface_names, make_weights

from cpumix.checkpoint import open_checkpoint, read_config
from cpumix.errors import ConfigError, ConvertError

Tensors = Mapping[str, Any]
Writer = Callable[[Path, Tensors], None]


def dealt(tensors: Tensors, files: int) -> list[dict[str, Any]]:
    return [dict(list(tensors.items())[i::files]) for i in range(files)]


def consolidated_shards(folder: Path, tensors: Tensors) -> None:
    weight_map = {}
    for i, part in enumerate(dealt(tensors, 2)):
        name = f"consolidated-{i + 1:05}-of-00002.safetensors"
        write_shard(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "consolidated.safetensors.index.json").write_text(json.dumps(index))


def eight_files(folder: Path, tensors: Tensors) -> None:
    for i, part in enumerate(dealt(first_release(tensors), 8)):
        torch_files.write_zip(folder / f"consolidated.{i:02}.pt", part)


def npz_files(folder: Path, tensors: Tensors) -> None:
    for i, part in enumerate(dealt(tensors, 3)):
        arrays = {n: bits.view("V2") for n, bits in part.items()}
        np.savez(folder / f"weights.{i}.npz", **arrays)


def numbered_bins(folder: Path, tensors: Tensors) -> None:
    weight_map = {}
    for i, part in enumerate(dealt(tensors, 3)):
        name = f"pytorch_model-{i + 1:05}-of-00003.bin"
        torch_files.write_zip(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "training_args.bin").write_bytes(b"something else")


MISTRAL_FORMS: dict[str, Writer] = {
    "safetensors": lambda f, t: write_shard(f / "consolidated.safetensors", t),
    "sharded": consolidated_shards,
    "pth": lambda f, t: torch_files.write_zip(f / "consolidated.00.pth", t),
    "eight": eight_files,
    "npz": npz_files,
}
BIN_FORMS: dict[str, Writer] = {
    "zip": lambda f, t: torch_files.write_zip(f / "pytorch_model.bin", t, parameters=True),
    "legacy": lambda f, t: torch_files.write_legacy(f / "pytorch_model.bin", t),
    "sharded": numbered_bins,
    "transposed": lambda f, t: torch_files.write_zip(
        f / "pytorch_model.bin", {n: np.asfortranarray(array) for n, array in t.items()}
    ),
}


def check(folder: Path, weights: Mapping[str, Bits]) -> None:
    """Compare every tensor of a checkpoint, read in two slices, with what was written."""
    tensors = open_checkpoint(folder).tensors
    assert tensors
    for name, tensor in tensors.items():
        middle, rows = 3, tensor.shape[0]
        parts = [tensor.read_rows(0, middle), tensor.read_rows(middle, rows)]
        assert np.array_equal(np.concatenate(parts), weights[name]), name


def write(folder: Path, form: str, *, mixture: bool = True, **params: Any) -> dict[str, Bits]:
    """Write a folder as Mistral does; return its weights by canonical name."""
    weights = make_weights(MIXTRAL if mixture else MISTRAL, seed=0)
    MISTRAL_FORMS[form](folder, mistral_names(weights))
    fields = PARAMS | (MOE if mixture else {}) | params
    file = "config.json" if form == "npz" else "params.json"
    (folder / file).write_text(json.dumps(fields))
    (folder / "tokenizer.model").write_bytes(b"\n\x05")
    return weights


@pytest.mark.parametrize("form", MISTRAL_FORMS)
def test_mixture_of_mistral(tmp_path: Path, form: str) -> None:
    weights = write(tmp_path, form, **({"model_type": "mixtral"} if form == "npz" else {}))
    check(tmp_path, weights)
    config = read_config(tmp_path)
    assert (config.rope_theta, config.num_local_experts, config.head_dim) == (1e6, 4, 4)
    assert (config.bos_token_id, config.eos_token_ids) == (1, (2,))


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_dense_model_of_mistral(tmp_path: Path, form: str) -> None:
    check(tmp_path, write(tmp_path, form, mixture=False, sliding_window="4096"))
    config = read_config(tmp_path)
    assert (config.rope_theta, config.sliding_window) == (1e4, 4096)  # as Mistral 7B v0.1 means it


def test_first_release_had_only_a_config_of_transformers(tmp_path: Path) -> None:
    weights = write(tmp_path, "eight")
    (tmp_path / "params.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL | {"rms_norm_eps": 1e-5}))
    check(tmp_path, weights)


def test_names_of_transformers_in_params(tmp_path: Path) -> None:
    weights = write(tmp_path, "pth")
    names = {"n_heads": "num_attention_heads", "dim": "hidden_size", "n_kv_heads": None}
    fields = {names.get(name, name): value for name, value in PARAMS.items()}
    fields |= {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    fields = {name: value for name, value in fields.items() if name}
    (tmp_path / "params.json").write_text(json.dumps(fields | {"rope_theta": 5e5}))
    check(tmp_path, weights)
    assert read_config(tmp_path).rope_theta == 5e5


def test_weights_of_transformers_come_first(tmp_path: Path) -> None:
    weights = write(tmp_path, "safetensors")
    write_shard(tmp_path / "model.safetensors", huggingface_names(weights, fused=False))
    (tmp_path / "consolidated.safetensors").write_text("something else")
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    check(tmp_path, weights)


@pytest.mark.parametrize("form", BIN_FORMS)
def test_files_of_pytorch(tmp_path: Path, form: str) -> None:
    weights = make_weights(MIXTRAL, seed=0)
    BIN_FORMS[form](tmp_path, huggingface_names(weights, fused=form == "transposed"))
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x05")
    check(tmp_path, weights)
    write_shard(tmp_path / "model.safetensors", {})  # preferred where both are there
    with pytest.raises(ConvertError, match="expected it in a shard, found it in none"):
        open_checkpoint(tmp_path)


def test_family_that_mistral_does_not_name(tmp_path: Path) -> None:
    write(tmp_path, "safetensors")
    (tmp_path / "params.json").unlink()
    qwen = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    config = {n: v for n, v in MIXTRAL.items() if "expert" not in n} | qwen
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConvertError, match="expected weights under the names of transformers for"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": None}, "expected the field dim of a params.json, found none"),
        ({"hidden_dim": None, "multiple_of": 256}, "expected the params.json of a model of Mis"),
        ({"moe": {"num_experts": 4}}, "expected the field num_experts_per_tok of a params"),
        ({"moe": [1]}, "moe: expected an object with num_experts, found another value"),
        ({"vision_encoder": {"dim": 1}}, '"vision_encoder": a field of params.json unknown to cp'),
        ({"sliding_window": "often"}, "sliding_window: expected a positive whole number"),
    ],
)
def test_strange_params_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, "safetensors", **change)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(tmp_path)


def test_params_without_weights(tmp_path: Path) -> None:
    write(tmp_path, "pth")
    (tmp_path / "consolidated.00.pth").unlink()
    assert read_config(tmp_path).num_local_experts == 4
    with pytest.raises(ConvertError, match=r"weights: expected consolidated.\* or weights"):
        open_checkpoint(tmp_path)
