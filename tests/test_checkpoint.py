"""Checkpoints in every shape that people have them: the same weights come out, under our names."""

from __future__ import annotations

import threading
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
from tiny_checkpoint import Bits, make_weights, to_f32, write_safetensors

from cpumix.checkpoint import Checkpoint, open_checkpoint
from cpumix.checkpoint.shards import INDEX
from cpumix.errors import ConvertError

THREE = [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
DENSE = {
    k: v for k, v in CONFIG.items() if k not in ("num_local_experts", "num_experts_per_tok")
} | {"architectures": ["MistralForCausalLM"]}


def assert_holds(checkpoint: Checkpoint, weights: dict[str, Bits]) -> None:
    """See that a checkpoint has exactly these bfloat16 weights."""
    assert list(checkpoint.tensors) == list(checkpoint.config.tensor_shapes())
    assert checkpoint.tensors.keys() == weights.keys()
    for name, expected in weights.items():
        tensor = checkpoint.tensors[name]
        assert (tensor.name, tensor.shape, tensor.dtype) == (name, expected.shape, "BF16")
        assert tensor.nbytes == expected.nbytes
        found = tensor.read_rows(0, tensor.shape[0])
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, expected, err_msg=name)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        pytest.param(CONFIG, {}, id="per-expert"),
        pytest.param(CONFIG, {"fused": True}, id="fused"),
        pytest.param(DENSE, {}, id="mistral"),
        pytest.param({**DENSE, "architectures": ["LlamaForCausalLM"]}, {}, id="llama"),
        pytest.param({**CONFIG, "tie_word_embeddings": True}, {}, id="tied"),
        pytest.param({**CONFIG, "head_dim": 6, "vocab_size": 21}, {"fused": True}, id="odd"),
    ],
)
def test_every_naming_gives_the_same_weights(
    tmp_path: Path, config: dict[str, Any], options: dict[str, Any]
) -> None:
    weights = write(tmp_path, config, **options)
    checkpoint = open_checkpoint(tmp_path)
    assert_holds(checkpoint, weights)
    assert checkpoint.source_bytes == sum(w.nbytes for w in weights.values())


@pytest.mark.parametrize("index", [True, False])
def test_shards_need_no_index(tmp_path: Path, index: bool) -> None:
    weights = write(tmp_path)
    split(tmp_path, THREE, index=index)
    (tmp_path / "consolidated.safetensors").write_bytes(b"the same in Mistral's own naming")
    assert_holds(open_checkpoint(str(tmp_path)), weights)


def test_single_file_may_have_an_index(tmp_path: Path) -> None:
    weights = write(tmp_path)
    edit_json(tmp_path / INDEX, weight_map=dict.fromkeys(source_tensors(), SINGLE))
    assert_holds(open_checkpoint(tmp_path), weights)


def test_rows_of_a_fused_expert_are_its_own(tmp_path: Path) -> None:
    weights = write(tmp_path, fused=True)
    tensors = open_checkpoint(tmp_path).tensors
    up, down = tensors["blk.1.expert.2.w3"], tensors["blk.1.expert.2.w2"]
    assert up.source_name == "model.layers.1.mlp.experts.gate_up_proj"
    np.testing.assert_array_equal(up.read_rows(5, 9), weights[up.name][5:9])
    out = np.zeros((2, 12), np.uint16)
    down.read_into(6, 8, out)
    np.testing.assert_array_equal(out, weights[down.name][6:8])
    assert down.read_rows(3, 3).shape == (0, 12)


def test_dtypes_may_differ_between_tensors(tmp_path: Path) -> None:
    weights = write(tmp_path)
    header, data = read_header(tmp_path / SINGLE)
    chunks, end = [], 0
    for name, entry in header.items():
        if name != "__metadata__":
            bits = np.frombuffer(data[slice(*entry["data_offsets"])], np.uint16)
            if "norm" in name:
                entry["dtype"], chunk = "F32", to_f32(bits).tobytes()
            elif "gate" in name:
                entry["dtype"], chunk = "F16", to_f32(bits).astype(np.float16).tobytes()
            else:
                chunk = bits.tobytes()
            chunks.append(chunk)
            entry["data_offsets"] = [end, end := end + len(chunk)]
    write_header(tmp_path / SINGLE, header, b"".join(chunks))

    tensors = open_checkpoint(tmp_path).tensors
    norm, router = tensors["blk.0.ffn_norm.weight"], tensors["blk.1.router.weight"]
    assert (norm.dtype, router.dtype, tensors["output.weight"].dtype) == ("F32", "F16", "BF16")
    np.testing.assert_array_equal(norm.read_rows(2, 7), to_f32(weights[norm.name][2:7]))
    expected = to_f32(weights[router.name]).astype(np.float16)
    np.testing.assert_array_equal(router.read_rows(0, 3), expected)
    assert norm.read_rows(0, 1).dtype == np.float32 and router.read_rows(0, 1).dtype == np.float16


def test_tensors_without_meaning_are_passed_over(tmp_path: Path) -> None:
    tied = {**CONFIG, "tie_word_embeddings": True}
    weights = write(tmp_path, tied)
    tensors = source_tensors(tied)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(2, np.uint16)
    tensors["model.rotary_emb.inv_freq"] = np.zeros(2, np.uint16)
    tensors["lm_head.weight"] = np.ones((20, 8), np.uint16)
    write_safetensors(tmp_path / SINGLE, tensors)
    assert_holds(open_checkpoint(tmp_path), weights)


@pytest.mark.parametrize("fused", [False, True])
def test_router_over_one_expert_is_passed_over(tmp_path: Path, fused: bool) -> None:
    config = {**CONFIG, "num_local_experts": 1, "num_experts_per_tok": 1}
    weights = make_weights(config, seed=1)
    write(tmp_path, config)
    tensors = source_tensors(config, fused=fused)
    write_safetensors(tmp_path / SINGLE, tensors)
    routers = [name for name in weights if "router" in name]
    assert len(routers) == 2 and any("gate.weight" in name for name in tensors)
    assert_holds(open_checkpoint(tmp_path), {n: w for n, w in weights.items() if n not in routers})


def test_side_files_are_kept_as_they_are(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer_config.json").write_bytes(b'{"a": "\xc3\xa9"}\r\n')
    (tmp_path / "chat_template.jinja").write_bytes(b"{{ messages }}")
    (tmp_path / "README.md").write_bytes(b"not needed")
    assert open_checkpoint(tmp_path).files == {
        "tokenizer.model": b"a tokenizer",
        "tokenizer_config.json": b'{"a": "\xc3\xa9"}\r\n',
        "chat_template.jinja": b"{{ messages }}",
    }


def test_tokenizer_json_is_enough(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer.model").rename(tmp_path / "tokenizer.json")
    assert list(open_checkpoint(tmp_path).files) == ["tokenizer.json"]


@pytest.mark.parametrize(
    ("eos", "expected"), [(2, (2,)), (7, (2, 7)), ([7, 2, 9], (2, 7, 9)), (None, (2,))]
)
def test_generation_config_adds_end_tokens(
    tmp_path: Path, eos: Any, expected: tuple[int, ...]
) -> None:
    write(tmp_path)
    edit_json(tmp_path / "generation_config.json", eos_token_id=eos)
    assert open_checkpoint(tmp_path).config.eos_token_ids == expected


def test_threads_read_at_once(tmp_path: Path) -> None:
    weights = write(tmp_path, fused=True)
    tensors = open_checkpoint(tmp_path).tensors
    wrong: list[str] = []

    def read() -> None:
        for name, tensor in tensors.items():
            if not np.array_equal(tensor.read_rows(0, tensor.shape[0]), weights[name]):
                wrong.append(name)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_shard_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    last = open_checkpoint(tmp_path).tensors["output.weight"]
    with open(last.path, "r+b") as stream:
        stream.truncate(last.offset + last.nbytes - 1)
    message = rf"{SINGLE}\": the file became shorter while it was read: expected \d+ bytes or more"
    with pytest.raises(ConvertError, match=message):
        last.read_rows(0, 20)


def test_shard_that_vanishes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    tensor = open_checkpoint(tmp_path).tensors["token_embd.weight"]
    tensor.path.unlink()
    message = rf"{SINGLE}\": cannot read this part of the checkpoint: No such file or directory"
    with pytest.raises(ConvertError, match=message):
        tensor.read_rows(0, 1)
