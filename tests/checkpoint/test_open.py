"""Whole checkpoints: every naming and form is read, and what is wrong in one is named.

Damaged shards are in test_container_safetensors.py.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LLAMA, MISTRAL, stored_as, write_checkpoint

from cpumix.checkpoint import Checkpoint, SourceTensor, open_checkpoint
from cpumix.checkpoint.containers import read_tensors
from cpumix.errors import ConfigError, ConvertError

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
EXPERT = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
FUSED = "model.layers.1.mlp.experts.gate_up_proj"
SHARD_2 = "model-00002-of-00003.safetensors"


def refused(folder: Path, message: str, kind: type[Exception] = ConvertError) -> None:
    with pytest.raises(kind, match=message):
        open_checkpoint(folder)


def bits(tensor: SourceTensor) -> bytes:
    return tensor.read_rows(0, tensor.shape[0]).tobytes()


def check(folder: Path, weights: dict[str, Any], dtype: str = "BF16") -> Checkpoint:
    """Compare every tensor of a checkpoint with the weights that it was written from."""
    checkpoint = open_checkpoint(folder)
    shapes = {spec.name: spec.shape for spec in checkpoint.config.tensors()}
    assert list(checkpoint.tensors) == list(shapes)
    for name, tensor in checkpoint.tensors.items():
        assert (tensor.name, tensor.shape, tensor.encoding) == (name, shapes[name], dtype)
        assert bits(tensor) == stored_as(weights[name], dtype).tobytes(), name
    assert checkpoint.source_bytes == sum(t.nbytes for t in checkpoint.tensors.values())
    return checkpoint


# ---- forms that are read


@pytest.mark.parametrize("fused", [False, True], ids=["v4", "v5"])
@pytest.mark.parametrize(("shards", "index"), [(1, False), (3, True), (3, False)])
def test_mixture_in_any_form(tmp_path: Path, fused: bool, shards: int, index: bool) -> None:
    weights = write_checkpoint(tmp_path, fused=fused, shards=shards, index=index)
    check(tmp_path, weights)


@pytest.mark.parametrize("config", [MISTRAL, LLAMA], ids=["mistral", "llama"])
def test_dense_model(tmp_path: Path, config: dict[str, Any]) -> None:
    check(tmp_path, write_checkpoint(tmp_path, config, vocab_size=35, head_dim=6))


@pytest.mark.parametrize("fused", [False, True], ids=["v4", "v5"])
@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_other_dtypes(tmp_path: Path, dtype: str, fused: bool) -> None:
    check(tmp_path, write_checkpoint(tmp_path, dtype=dtype, fused=fused), dtype)


@pytest.mark.parametrize(
    "form",
    [
        {"w1": "experts.{e}.gate_proj.weight", "router": "mlp.gate.weight"},
        {"w1": "switch_mlp.gate_proj.weight", "router": "block_sparse_moe.gate.weight"},
    ],
    ids=["gptqmodel", "mlx-lm"],
)
def test_names_of_other_programs(tmp_path: Path, form: dict[str, str]) -> None:
    weights = write_checkpoint(tmp_path)
    change: dict[str, Any] = {}
    for layer in range(2):
        block, canonical = f"model.layers.{layer}.", f"blk.{layer}."
        change[block + "block_sparse_moe.gate.weight"] = None
        change[block + form["router"]] = weights[canonical + "router.weight"]
        room = block + form["router"].split(".")[0] + "."
        for w, part in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
            experts = [weights[f"{canonical}expert.{e}.{w}"] for e in range(4)]
            name = room + form["w1"].replace("gate_proj", part)
            for e, expert in enumerate(experts):
                change[f"{block}block_sparse_moe.experts.{e}.{w}.weight"] = None
                change[name.format(e=e)] = expert
            if "{e}" not in name:
                change[name] = np.stack(experts)
    write_checkpoint(tmp_path, change=change)
    check(tmp_path, weights)


def test_fused_experts_have_the_gate_above(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, fused=True)
    tensors = open_checkpoint(tmp_path).tensors
    w1, w3 = (tensors[f"blk.1.expert.2.{part}"] for part in ("w1", "w3"))
    assert w1.source_name == w3.source_name == FUSED
    assert w1.nbytes == w3.nbytes == 24 * 16 * 2
    assert np.array_equal(w3.read_rows(5, 9), weights["blk.1.expert.2.w3"][5:9])


@pytest.mark.parametrize("fused", [False, True], ids=["v4", "v5"])
def test_mixture_of_one_expert_needs_no_router(tmp_path: Path, fused: bool) -> None:
    weights = write_checkpoint(tmp_path, fused=fused, num_local_experts=1, num_experts_per_tok=1)
    assert "blk.0.router.weight" in weights  # as transformers has it, with nothing to choose
    assert "blk.0.router.weight" not in check(tmp_path, weights).tensors


def test_buffers_are_passed_over(tmp_path: Path) -> None:
    buffer = np.ones(4, np.float64)
    change = dict.fromkeys(
        ("model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq"), buffer
    )
    check(tmp_path, write_checkpoint(tmp_path, change=change))


def test_tied_head_need_not_be_there(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, tie_word_embeddings=True)
    assert "output.weight" not in check(tmp_path, weights).tensors


def test_tied_head_that_equals_the_embedding_is_passed_over(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, tie_word_embeddings=True)
    change = {HEAD: weights["token_embd.weight"]}
    write_checkpoint(tmp_path, tie_word_embeddings=True, change=change)
    assert check(tmp_path, weights).config.tie_word_embeddings


def test_tied_head_that_differs_is_used_as_transformers_does(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, tie_word_embeddings=True)
    weights["output.weight"] = weights["token_embd.weight"] ^ np.uint16(1)
    change = {HEAD: weights["output.weight"]}
    write_checkpoint(tmp_path, tie_word_embeddings=True, change=change)
    assert not check(tmp_path, weights).config.tie_word_embeddings


def test_tied_head_may_stand_for_the_embedding(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, tie_word_embeddings=True)
    change = {HEAD: weights["token_embd.weight"], EMBEDDING: None}
    write_checkpoint(tmp_path, tie_word_embeddings=True, change=change)
    assert check(tmp_path, weights).config.tie_word_embeddings


def test_index_may_name_a_single_file(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path)
    index = {"weight_map": {EMBEDDING: "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    check(tmp_path, weights)


def test_other_weights_beside_the_checkpoint_are_passed_over(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path, shards=2, index=False)
    for name in ("consolidated", "adapter_model", "._model-00001-of-00002"):
        (tmp_path / f"{name}.safetensors").write_text("something else")
    check(tmp_path, weights)


def test_side_files_come_along(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    names = {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "generation_config.json",
    }
    for name in names:
        (tmp_path / name).write_text("{}")
    (tmp_path / "README.md").touch()
    files = open_checkpoint(tmp_path).files
    assert files.keys() == names | {"tokenizer.model"}
    assert files["chat_template.jinja"] == b"{}"


@pytest.mark.parametrize(
    ("eos", "ids"), [(7, (7,)), ([5, 6], (5, 6)), (None, (2,)), ("absent", (2,))]
)
def test_eos_of_generation_config_wins(tmp_path: Path, eos: object, ids: tuple[int, ...]) -> None:
    write_checkpoint(tmp_path, eos_token_id=2)
    config = {} if eos == "absent" else {"eos_token_id": eos}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    assert open_checkpoint(tmp_path).config.eos_token_ids == ids


def test_rows_are_read_by_many_threads(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path)
    tensor = open_checkpoint(tmp_path).tensors["token_embd.weight"]
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda i: tensor.read_rows(i, i + 1), [*range(32)] * 8))
    assert np.array_equal(np.concatenate(rows), np.tile(weights["token_embd.weight"], (8, 1)))
    assert tensor.read_rows(3, 3).shape == (0, 16)


# ---- what is wrong with the folder


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone", r'expected a folder, found nothing at ".*gone". Check the path\.')


def test_file_instead_of_folder_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    refused(
        tmp_path / "model.safetensors",
        "expected a folder with config.json and weights, or a GGUF file, found another file at",
    )


def test_impossible_path_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 5000), "expected a folder, found nothing at|cannot read this part of")


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "json or a GGUF file with the weights, found none in .* Name the folder of")
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "expected a whole model, found an adapter in .*, with --lora and this folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r'config.json": expected JSON, found other text \('),
        ("\x80", "expected JSON, found other text"),
        ("[" * 100_000, "expected JSON, found other text"),
        ("[]", "expected a JSON object, found a list. Download it again."),
        (
            "version https://git-lfs.github.com/spec/v1\noid",
            "expected the file itself, found a git-lfs pointer to it. Run `git lfs pull`",
        ),
    ],
)
def test_damaged_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    refused(tmp_path, message)


def test_unknown_field_names_the_file(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, logit_scale=2)
    refused(tmp_path, r'^".*config.json": "logit_scale": a field unknown to cpumix', ConfigError)


def test_field_that_is_ignored(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, logit_scale=2)
    assert open_checkpoint(tmp_path, ["logit_scale"]).config.vocab_size == 32


def test_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    refused(tmp_path, "tokenizer missing: expected tokenizer.model, tokenizer.json or tekken")


def test_tokenizer_that_is_a_pointer_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(tmp_path, 'tokenizer.model": expected the file itself, found a git-lfs pointer')


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer.json").mkdir()
    refused(tmp_path, r'tokenizer.json": cannot read this part of the checkpoint: \w+')


def test_impossible_eos_of_generation_config_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 99]}')
    message = 'generation_config.json": eos_token_id: expected a token id below vocab_size 32'
    refused(tmp_path, message, ConfigError)


# ---- what is wrong with the set of shards


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    refused(tmp_path, r"weights: expected \*.safetensors or pytorch_model\*.bin, found none in ")


@pytest.mark.parametrize(
    "name",
    ["model.pt", "adapter_model.safetensors.old.pth"],
)
def test_weights_of_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    refused(
        tmp_path,
        rf'or pytorch_model\*.bin, found only others, such as "{name}" in ".*". Download them ther',
    )


def test_shard_absent_from_its_numbered_row_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, shards=3, index=False)
    (tmp_path / SHARD_2).unlink()
    refused(tmp_path, f'shard "{SHARD_2}": the name of ".*" promises it, but it is absent')


def test_shard_of_the_index_that_is_absent_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, shards=3)
    (tmp_path / SHARD_2).unlink()
    refused(tmp_path, f'shard "{SHARD_2}": the index names it, but it is absent. Download it to')


def test_tensor_of_the_index_that_its_shard_lacks_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, shards=3)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["another"] = SHARD_2
    path.write_text(json.dumps(index))
    refused(tmp_path, f'tensor "another": the index expects it in shard "{SHARD_2}", which has')


@pytest.mark.parametrize("found", [None, {}, [], "x"])
def test_index_without_map_is_refused(tmp_path: Path, found: object) -> None:
    write_checkpoint(tmp_path, shards=3)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": found}))
    refused(tmp_path, "expected a weight_map of tensors to shards, found none. Download it again")


@pytest.mark.parametrize("shard", ["../x.safetensors", "a\\b.safetensors", "/etc/passwd", 3, ["x"]])
def test_index_that_points_elsewhere_is_refused(tmp_path: Path, shard: object) -> None:
    write_checkpoint(tmp_path, shards=3)
    index = {"weight_map": {"a": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(tmp_path, r"expected names of \*.safetensors files beside the index, found \"")


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, shards=2, index=False)
    (tmp_path / "extra.safetensors").write_bytes(
        (tmp_path / "model-00001-of-00002.safetensors").read_bytes()
    )
    refused(tmp_path, f'tensor "{EMBEDDING}": expected it in one shard, found it in two, "')


# ---- what is wrong with the set of tensors


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ([EXPERT], f'tensor "{EXPERT}": expected it in a shard, found it in none. Download all'),
        (
            [HEAD, "model.norm.weight"],
            'norm.weight": expected it in .* found it in none, nor 1 oth',
        ),
    ],
)
def test_missing_tensor_is_named(tmp_path: Path, missing: list[str], message: str) -> None:
    write_checkpoint(tmp_path, change=dict.fromkeys(missing))
    refused(tmp_path, message)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.2.input_layernorm.weight",
        "model.layers.0.block_sparse_moe.experts.4.w1.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "something",
    ],
)
def test_unknown_tensor_is_named(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path, change={name: np.ones(16, np.float32)})
    refused(tmp_path, f'"{name}": a name unknown to a MixtralForCausalLM of 2 layers and 4 experts')


def test_mixture_in_a_dense_model_is_unknown(tmp_path: Path) -> None:
    change = {EXPERT: np.ones((24, 16), np.float32)}
    write_checkpoint(tmp_path, LLAMA, change=change)
    refused(tmp_path, f'"{EXPERT}": a name unknown to a LlamaForCausalLM of 2 layers and 1 experts')


@pytest.mark.parametrize(
    ("fused", "name", "shape", "expected"),
    [
        (False, EXPERT, (16, 24), (24, 16)),
        (False, EXPERT, (24 * 16,), (24, 16)),
        (False, EMBEDDING, (33, 16), (32, 16)),
        (False, HEAD, (31, 16), (32, 16)),
        (True, FUSED, (4, 24, 16), (4, 48, 16)),
        (True, FUSED, (3, 48, 16), (4, 48, 16)),
        (True, "model.layers.0.mlp.experts.down_proj", (4, 24, 16), (4, 16, 24)),
    ],
)
def test_wrong_shape_is_named(
    tmp_path: Path, fused: bool, name: str, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    write_checkpoint(tmp_path, fused=fused, change={name: np.ones(shape, np.float32)})
    message = f'tensor "{name}": expected shape {expected} by config.json, found {shape}. Shard "'
    refused(tmp_path, re.escape(message))


@pytest.mark.parametrize(("dtype", "name"), [(np.int8, "I8"), (np.float64, "F64")])
def test_other_dtype_is_named(tmp_path: Path, dtype: Any, name: str) -> None:
    write_checkpoint(tmp_path, change={EXPERT: np.ones((24, 16), dtype)})
    refused(
        tmp_path,
        f'"{EXPERT}": expected dtype BF16 or F16 or F32 or F8_E4M3, found "{name}". Convert a ch',
    )


# ---- what goes wrong later


def test_shard_that_became_shorter_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensor = open_checkpoint(tmp_path).tensors["blk.1.expert.3.w2"]
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(read_tensors(tensor.path)[tensor.source_name].offset + 10)
    with pytest.raises(
        ConvertError,
        match=r'model.safetensors": expected 768 bytes at byte \d+, found 10: the file became',
    ):
        tensor.read_rows(0, 16)


def test_shard_that_disappeared_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensor = open_checkpoint(tmp_path).tensors["blk.1.expert.3.w2"]
    tensor.path.unlink()
    with pytest.raises(ConvertError, match="cannot read this part of the checkpoint: No such file"):
        tensor.read_rows(0, 16)
