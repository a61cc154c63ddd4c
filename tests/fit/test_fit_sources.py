"""Everything that `cpumix fit` can be pointed at, and what it says of things that are no model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from model_files import CONFIG, write

from cpumix.errors import ConfigError, ConvertError, CpumixError
from cpumix.fit.sources import open_source
from cpumix.memory.planner import make_plan
from cpumix.store import gguf

PARAMS = {
    "dim": 4096,
    "n_layers": 32,
    "head_dim": 128,
    "hidden_dim": 14336,
    "n_heads": 32,
    "n_kv_heads": 8,
    "norm_eps": 1e-05,
    "vocab_size": 32000,
    "moe": {"num_experts_per_tok": 2, "num_experts": 8},
}
FOREIGN = {  # what llama.cpp writes for Mixtral 8x7B, as far as it matters
    "general.architecture": "llama",
    "llama.embedding_length": 4096,
    "llama.feed_forward_length": 14336,
    "llama.block_count": 32,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 1e6,
    "llama.context_length": 32768,
    "llama.expert_count": 8,
    "llama.expert_used_count": 2,
}
BARE = {"hidden_size": 64, "vocab_size": 32, "architectures": ["MixtralForCausalLM"]}


def write_foreign(path: Path, metadata: dict) -> Path:
    tensors = [
        gguf.TensorInfo("token_embd.weight", (32000, 4096), gguf.F32_TENSOR, 0),
        gguf.TensorInfo("output.weight", (32000, 4096), gguf.F32_TENSOR, 4 * 32000 * 4096),
    ]
    header = gguf.encode_header(metadata, tensors)
    size = gguf.align(len(header), 32) + 2 * 4 * 32000 * 4096
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(size)  # a hole: it takes no room on the disk
    return path


def test_nothing_named_is_mixtral_8x7b():
    source = open_source(None)
    assert source.name == "mixtral-8x7b"
    assert source.path is None
    assert open_source("Mixtral-8x7B") == source


def test_window_of_the_first_mistral_is_known():
    assert open_source("mistral-7b-v0.1").config.sliding_window == 4096
    assert open_source("mixtral-8x7b").config.sliding_window is None


def test_folder_and_its_config_are_the_same(checkpoint_folder):
    folder = open_source(str(checkpoint_folder))
    file = open_source(str(checkpoint_folder / "config.json"))
    assert folder.config == file.config
    assert folder.name == file.name == checkpoint_folder.name
    assert folder.is_checkpoint
    assert not file.is_checkpoint


def test_params_of_mistral_are_mixtral(tmp_path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(PARAMS))
    ours = open_source("mixtral-8x7b").config
    assert make_plan(open_source(str(path)).config, "int4", 4096, 1) == make_plan(
        ours, "int4", 4096, 1
    )
    dense = {name: value for name, value in PARAMS.items() if name != "moe"}
    path.write_text(json.dumps(dense))
    assert not open_source(str(tmp_path)).config.is_moe


def test_foreign_gguf_is_mixtral(tmp_path):
    source = open_source(str(write_foreign(tmp_path / "other.gguf", FOREIGN)))
    ours = open_source("mixtral-8x7b").config
    assert source.name == "other"
    assert source.precision is None
    assert source.is_checkpoint  # `fit` says how to convert it
    assert make_plan(source.config, "int8", 32768, 1) == make_plan(ours, "int8", 32768, 1)


def test_model_file_has_its_precision_and_exact_size(tmp_path):
    path = write(tmp_path / "tiny.bin", "int4")
    source = open_source(str(path))
    assert (source.config, source.precision.name) == (CONFIG, "int4")
    plan = make_plan(source.config, source.precision, 128, 1)
    assert plan.file_bytes + source.header_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", "{}", "expected the fields of a config.json, found no hidden_size, "),
        ("config.json", json.dumps(BARE), "found no intermediate_size, num_hidden_layers, num_att"),
        ("config.json", "[1]", "source: expected a JSON object, found another value: "),
        ("config.json", "pear", "source: expected JSON or GGUF, found something else: "),
        ("params.json", '{"dim": 1}', "expected the field hidden_dim of a params.json, found none"),
        ("params.json", json.dumps(PARAMS | {"moe": 8}), "moe: expected an object with num_expert"),
        ("model.bin", np.arange(99).tobytes(), "expected JSON or GGUF, found something else"),
        ("model.gguf", b"GGUF", "model.gguf"),
    ],
)
def test_file_that_is_no_model(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CpumixError) as caught:
        open_source(str(path))
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"general.architecture": "gpt2"},
            "cpumix runs GGUF files of the architectures",
        ),
        ({"llama.block_count": None}, "expected the GGUF key llama.block_count, found none"),
        ({"llama.expert_used_count": None}, "GGUF key llama.expert_used_count, found none"),
    ],
)
def test_foreign_gguf_that_cannot_be_planned(tmp_path, change, sentence):
    metadata = {name: value for name, value in (FOREIGN | change).items() if value is not None}
    with pytest.raises(ConfigError, match=sentence):
        open_source(str(write_foreign(tmp_path / "other.gguf", metadata)))


def test_empty_folder_and_nothing_at_all(tmp_path):
    with pytest.raises(ConvertError, match="GGUF file with the weights, found none"):
        open_source(str(tmp_path))
    sentence = "source: expected a checkpoint folder, a model file, .* found no such thing"
    with pytest.raises(ConfigError, match=sentence):
        open_source("mixtral-9x9b")


@pytest.mark.skipif("not hasattr(__import__('os'), 'mkfifo')")
def test_file_that_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("{}")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigError, match="source: cannot be read: Permission denied"):
        open_source(str(path))
