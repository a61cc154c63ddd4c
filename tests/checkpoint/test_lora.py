"""Adapters merged while rows are read, against the merged matrices made in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files
from checkpoints import LLAMA, MIXTRAL, write_checkpoint, write_shard
from click.testing import CliRunner
from mistral_weights import pairs
from tiny_checkpoint import to_f32

from cpumix.checkpoint import Checkpoint, merge_adapter, open_checkpoint
from cpumix.cli.main import main
from cpumix.errors import ConfigError, ConvertError

SHARED = Path(__file__).parents[2].parent / "shared" / "checkpoints"
PEFT: dict[str, Any] = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "use_rslora": False}
Q = "model.layers.0.self_attn.q_proj"
ATTENTION = {"q_proj": (16, 16), "k_proj": (8, 16), "o_proj": (16, 16)}
Deltas = dict[str, np.ndarray]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64([seed, *shape]))
    return rng.normal(0, 0.2, shape).astype(np.float32)


def write_peft(folder: Path, parts: dict[str, Any], **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_shard(
        folder / "adapter_model.safetensors",
        {f"base_model.model.{name}": array for name, array in parts.items()},
    )
    (folder / "adapter_config.json").write_text(json.dumps(PEFT | settings))
    return folder


def read(checkpoint: Checkpoint, name: str, step: int = 5) -> np.ndarray:
    tensor = checkpoint.tensors[name]
    rows = tensor.shape[0]
    parts = [tensor.read_rows(s, min(s + step, rows)) for s in range(0, rows, step)]
    found = np.concatenate(parts)
    return to_f32(found) if found.dtype == np.uint16 else found


def check(merged: Checkpoint, weights: Deltas, deltas: Deltas) -> None:
    """Compare every tensor with its weights plus what was added to them."""
    for name in merged.tensors:
        expected = to_f32(weights[name]).astype(np.float64) + deltas.get(name, 0)
        assert np.allclose(read(merged, name), expected, rtol=0, atol=2e-6), name


def attention(rank: int = 3) -> tuple[dict[str, Any], Deltas]:
    """Return factors for the attention of both layers, and their products by canonical name."""
    parts, products = {}, {}
    for layer in range(2):
        for name, (rows, columns) in ATTENTION.items():
            a, b = random(rank, columns, seed=layer), random(rows, rank, seed=layer)
            module = f"model.layers.{layer}.self_attn.{name}"
            parts |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
            role = "attn_output" if name == "o_proj" else f"attn_{name[0]}"
            products[f"blk.{layer}.{role}.weight"] = b.astype(float) @ a
    return parts, products


def scaled(products: Deltas, scale: float) -> Deltas:
    return {name: scale * product for name, product in products.items()}


@pytest.mark.parametrize("times", [1.0, 0.5, -2.0])
@pytest.mark.parametrize("rslora", [False, True])
def test_scale(tmp_path: Path, times: float, rslora: bool) -> None:
    weights = write_checkpoint(tmp_path / "base")
    parts, products = attention()
    folder = write_peft(tmp_path / "lora", parts, use_rslora=rslora)
    merged = merge_adapter(open_checkpoint(tmp_path / "base"), folder, times)
    check(merged, weights, scaled(products, times * 6 / (math.sqrt(3) if rslora else 3)))


def test_alpha_patterns_match_ends_of_names(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "base")
    parts, products = attention()
    patterns = {"layers.1.self_attn.q_proj": 30, r"layers\.\d+\.self_attn\.k_proj": 15, "proj": 99}
    folder = write_peft(tmp_path / "lora", parts, alpha_pattern=patterns)
    alphas = {"blk.1.attn_q.weight": 30, "blk.0.attn_k.weight": 15, "blk.1.attn_k.weight": 15}
    deltas = {name: alphas.get(name, 6) / 3 * product for name, product in products.items()}
    check(merge_adapter(open_checkpoint(tmp_path / "base"), folder), weights, deltas)


def test_several_adapters_add_up(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "base")
    parts, products = attention()
    other, others = attention(rank=2)
    merged = open_checkpoint(tmp_path / "base")
    merged = merge_adapter(merged, write_peft(tmp_path / "a", parts), 0.5)
    merged = merge_adapter(merged, write_peft(tmp_path / "b", other), 2)
    deltas = {name: 0.5 * 2 * products[name] + 2 * 3 * others[name] for name in products}
    check(merged, weights, deltas)


def test_older_names_and_files_of_pytorch(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "base")
    parts, products = attention()
    (tmp_path / "lora").mkdir()
    names = {n.replace(".weight", ".default.weight"): array for n, array in parts.items()}
    named = {f"base_model.model.{name}": array for name, array in names.items()}
    torch_files.write_zip(tmp_path / "lora" / "adapter_model.bin", named)
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(PEFT))
    merged = merge_adapter(open_checkpoint(tmp_path / "base"), tmp_path / "lora")
    check(merged, weights, scaled(products, 2))


@pytest.mark.parametrize("fused", [False, True], ids=["v4", "v5"])
def test_each_expert_of_transformers_4(tmp_path: Path, fused: bool) -> None:
    weights = write_checkpoint(tmp_path / "base", fused=fused)
    parts, deltas = {}, {}
    for e in range(4):
        for w, (rows, columns) in {"w1": (24, 16), "w3": (24, 16), "w2": (16, 24)}.items():
            a, b = random(2, columns, seed=e), random(rows, 2, seed=e)
            module = f"model.layers.1.block_sparse_moe.experts.{e}.{w}"
            parts |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
            deltas[f"blk.1.expert.{e}.{w}"] = 3 * b.astype(float) @ a
    a, b = random(2, 16, seed=9), random(4, 2, seed=9)
    gate = "model.layers.0.block_sparse_moe.gate"
    parts |= {f"{gate}.lora_A.weight": a, f"{gate}.lora_B.weight": b}
    deltas["blk.0.router.weight"] = 3 * b.astype(float) @ a
    folder = write_peft(tmp_path / "lora", parts)
    check(merge_adapter(open_checkpoint(tmp_path / "base"), folder), weights, deltas)


@pytest.mark.parametrize("exchanged", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("order", [("", ".base_layer"), (".base_layer", "")])
def test_stacked_experts_of_transformers_5(
    tmp_path: Path, exchanged: bool, order: tuple[str, str]
) -> None:
    weights = write_checkpoint(tmp_path / "base")
    rank, experts = 2, 4
    parts, deltas = {}, {}
    for nested, (rows, columns) in zip(order, ((48, 16), (16, 24)), strict=True):
        sizes = (rows, columns) if exchanged else (columns, rows)
        a = random(experts * rank, sizes[0])
        b = random(sizes[1], rank * experts)
        module = f"model.layers.0.mlp.experts{nested}"
        parts |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        by_expert = b.astype(float).reshape(sizes[1], rank, experts)
        for e in range(experts):
            delta = 6 / rank * by_expert[..., e] @ a.reshape(experts, rank, -1)[e]
            delta = delta.T if exchanged else delta
            if rows == 48:
                deltas[f"blk.0.expert.{e}.w1"], deltas[f"blk.0.expert.{e}.w3"] = np.split(delta, 2)
            else:
                deltas[f"blk.0.expert.{e}.w2"] = delta
    folder = write_peft(tmp_path / "lora", parts)
    check(merge_adapter(open_checkpoint(tmp_path / "base"), folder), weights, deltas)


@pytest.mark.parametrize("suffix", ["", ".weight"])
def test_dora(tmp_path: Path, suffix: str) -> None:
    weights = write_checkpoint(tmp_path / "base")
    parts, products = attention()
    lengths = np.abs(random(16, seed=3)) + 0.5
    parts[f"{Q}.lora_magnitude_vector{suffix}"] = lengths
    folder = write_peft(tmp_path / "lora", parts, use_dora=True)
    name = "blk.0.attn_q.weight"
    found = read(merge_adapter(open_checkpoint(tmp_path / "base"), folder), name)
    plain = to_f32(weights[name]) + 2 * products[name]
    expected = plain * (lengths / np.linalg.norm(plain, axis=1))[:, None]
    assert np.allclose(found, expected, rtol=0, atol=2e-6)


def test_dora_of_a_row_of_zeros(tmp_path: Path) -> None:
    zeros = np.zeros((16, 16), np.uint16)
    write_checkpoint(tmp_path / "base", change={f"{Q}.weight": zeros})
    parts = {
        f"{Q}.lora_A.weight": random(3, 16),
        f"{Q}.lora_B.weight": np.zeros((16, 3), np.float32),
        f"{Q}.lora_magnitude_vector": np.ones(16, np.float32),
    }
    folder = write_peft(tmp_path / "lora", parts, use_dora=True)
    found = read(merge_adapter(open_checkpoint(tmp_path / "base"), folder), "blk.0.attn_q.weight")
    assert not found.any()


def test_embedding_and_head(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "base")
    a, b, head = random(3, 32), random(16, 3), random(32, 16, seed=1)
    parts = {
        "model.embed_tokens.lora_embedding_A": a,
        "model.embed_tokens.lora_embedding_B": b,
        "model.embed_tokens.base_layer.weight": to_f32(weights["token_embd.weight"]),
        "lm_head.weight": head,
        "model.norm.modules_to_save.weight": np.full(16, 0.5, np.float32),
    }
    folder = write_peft(tmp_path / "lora", parts, modules_to_save=["lm_head", "norm"])
    merged = merge_adapter(open_checkpoint(tmp_path / "base"), folder)
    embedding = to_f32(weights["token_embd.weight"]) + 2 * (b.astype(float) @ a).T
    assert np.allclose(read(merged, "token_embd.weight"), embedding, rtol=0, atol=2e-6)
    assert np.array_equal(read(merged, "output.weight"), head)
    assert np.array_equal(read(merged, "output_norm.weight"), np.full(16, 0.5))


def test_larger_vocabulary_brings_its_tokenizer(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base")
    rows = random(35, 16)
    parts = {
        "model.embed_tokens.base_layer.weight": rows,
        "model.embed_tokens.lora_embedding_A": random(3, 35),
        "model.embed_tokens.lora_embedding_B": random(16, 3),
        "lm_head.weight": rows,
    }
    folder = write_peft(tmp_path / "lora", parts)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("new")
    merged = merge_adapter(open_checkpoint(tmp_path / "base"), folder)
    assert merged.config.vocab_size == 35
    assert merged.tensors["token_embd.weight"].shape == (35, 16)
    assert merged.files.keys() == {"tokenizer.model", "tokenizer.json", "chat_template.jinja"}
    parts.pop("lm_head.weight")
    write_peft(folder, parts)
    with pytest.raises(
        ConvertError, match=r"expected embedding and head of one vocabulary, found \["
    ):
        merge_adapter(open_checkpoint(tmp_path / "base"), folder)


def test_same_vocabulary_brings_a_chat_template_only(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base")
    folder = write_peft(tmp_path / "lora", attention()[0])
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "chat_template.jinja").write_text("new")
    merged = merge_adapter(open_checkpoint(tmp_path / "base"), folder)
    assert merged.files.keys() == {"tokenizer.model", "chat_template.jinja"}


# ---- other programs


def test_adapter_of_mlx(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "base")
    parts, deltas = {}, {}
    a, b = random(16, 3), random(3, 16)
    parts |= {f"{Q}.lora_a": a, f"{Q}.lora_b": b}
    deltas["blk.0.attn_q.weight"] = 20 * (a.astype(float) @ b).T
    sizes = {"gate_proj": (24, 16), "up_proj": (24, 16), "down_proj": (16, 24)}
    for w, (name, (rows, columns)) in zip(("w1", "w3", "w2"), sizes.items(), strict=True):
        a, b = random(4, 2, columns, seed=rows), random(4, rows, 2, seed=columns)
        module = f"model.layers.1.block_sparse_moe.switch_mlp.{name}"
        parts |= {f"{module}.lora_a": a, f"{module}.lora_b": b}
        for e in range(4):
            deltas[f"blk.1.expert.{e}.{w}"] = 20 * b[e].astype(float) @ a[e]
    a, b = random(32, 2), random(2, 16)
    parts |= {"model.embed_tokens.lora_a": a, "model.embed_tokens.lora_b": b}
    deltas["token_embd.weight"] = 20 * a.astype(float) @ b
    folder = tmp_path / "lora"
    folder.mkdir()
    write_shard(folder / "adapters.safetensors", parts)
    settings = {"fine_tune_type": "lora", "lora_parameters": {"rank": 3, "scale": 20.0}}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    check(merge_adapter(open_checkpoint(tmp_path / "base"), folder), weights, deltas)
    settings["fine_tune_type"] = "full"
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="expected the fine_tune_type lora or dora and a scale"):
        merge_adapter(open_checkpoint(tmp_path / "base"), folder)


@pytest.mark.parametrize("config", [MIXTRAL, LLAMA], ids=["mixtral", "dense"])
def test_adapter_of_mistral(tmp_path: Path, config: dict[str, Any]) -> None:
    weights = write_checkpoint(tmp_path / "base", config)
    parts, deltas = {}, {}
    experts = "experts.2." if config is MIXTRAL else ""
    for module, name, (rows, columns) in (
        ("attention.wq", "attn_q.weight", (16, 16)),
        ("attention.wk", "attn_k.weight", (8, 16)),
        ("attention.wv", "attn_v.weight", (8, 16)),
        (f"feed_forward.{experts}w2", f"expert.{2 if experts else 0}.w2", (16, 24)),
    ):
        a, b = random(3, columns), random(rows, 3, seed=columns)
        turned = pairs(b) if module in ("attention.wq", "attention.wk") else b
        parts |= {f"layers.1.{module}.lora_A.weight": a, f"layers.1.{module}.lora_B.weight": turned}
        deltas[f"blk.1.{name}"] = 0.5 * 2 * b.astype(float) @ a
    (tmp_path / "lora").mkdir()
    write_shard(tmp_path / "lora" / "lora.safetensors", parts)
    check(
        merge_adapter(open_checkpoint(tmp_path / "base"), tmp_path / "lora", 0.5), weights, deltas
    )


# ---- what is refused

A, B = random(3, 16), random(16, 3)
Parts = dict[str, Any]


def edit(name: str, value: Any) -> Callable[[Parts], Parts]:
    return lambda parts: {n: a for n, a in (parts | {name: value}).items() if a is not None}


@pytest.mark.parametrize(
    ("settings", "change", "error", "message"),
    [
        ({"peft_type": "IA3"}, {}, ConfigError, "peft_type: an adapter that cpumix cannot merge"),
        ({"init_lora_weights": "pissa"}, {}, ConfigError, "init_lora_weights: an adapter that cpu"),
        ({"alora_invocation_tokens": [1]}, {}, ConfigError, "alora_invocation_tokens: an adapter"),
        ({"lora_alpha": "8"}, {}, ConfigError, 'lora_alpha: expected a number, found "8"'),
        ({"alpha_pattern": {"(a+)+b": 1}}, {}, ConfigError, "alpha_pattern: expected the end of a"),
        ({"alpha_pattern": {"a" * 201: 1}}, {}, ConfigError, "alpha_pattern: expected the end of"),
        ({"alpha_pattern": {"a\\": 1}}, {}, ConfigError, "alpha_pattern: expected the end of a mo"),
        ({}, {f"{Q}.lora_C.weight": A}, ConvertError, 'part "model.layers.0.self_attn.q_proj.lora'),
        ({}, {"model.other.lora_A.weight": A}, ConvertError, 'part "model.other": expected'),
        ({}, {f"{Q}.lora_B.weight": None}, ConvertError, "expected lora_A and lora_B, found A"),
        ({}, {f"{Q}.lora_B.weight": B[1:]}, ConvertError, r"expected two factors for \(16, 16\),"),
        ({}, {f"{Q}.lora_A.weight": A[:, 1:]}, ConvertError, r"expected two factors for \(16, 16"),
        ({}, {f"{Q}.lora_A.weight": A[1:]}, ConvertError, r"expected two factors for \(16, 16\), "),
        ({}, {f"{Q}.lora_A.weight": A[0]}, ConvertError, r"expected two factors for \(16, 16\),"),
        ({}, {f"{Q}.lora_magnitude_vector": A}, ConvertError, r"expected two factors for \(16, 16"),
        ({}, {"lm_head.weight": A}, ConvertError, r"expected all of it, \(32, 16\), found|one voc"),
        ({}, {"model.norm.weight": A[0, 1:]}, ConvertError, r"expected all of it, \(16,\), found"),
        ({}, {"model.layers.0.mlp.experts.lora_A.weight": A}, ConvertError, 'part "model.'),
    ],
)  # fmt: skip
def test_adapter_that_does_not_fit(
    tmp_path: Path, settings: Parts, change: Parts, error: type[Exception], message: str
) -> None:
    write_checkpoint(tmp_path / "base")
    parts = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B} | change
    folder = write_peft(
        tmp_path / "x", {n: a for n, a in parts.items() if a is not None}, **settings
    )
    with pytest.raises(error, match=message):
        merge_adapter(open_checkpoint(tmp_path / "base"), folder)


def test_head_that_is_the_embedding(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base", tie_word_embeddings=True)
    parts = {"lm_head.lora_A.weight": random(3, 16), "lm_head.lora_B.weight": random(32, 3)}
    folder = write_peft(tmp_path / "lora", parts)
    with pytest.raises(
        ConvertError, match=r'adapter part "lm_head": expected .* a module of this model, found'
    ):
        merge_adapter(open_checkpoint(tmp_path / "base"), folder)


def test_folder_without_an_adapter(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "base")
    with pytest.raises(ConvertError, match=r"adapter: expected a folder with adapter_model\.safe"):
        merge_adapter(open_checkpoint(tmp_path / "base"), tmp_path)


def test_option_splits_folder_and_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def convert(*arguments: Any, **options: Any) -> None:
        seen.extend(options["lora"])
        raise ConvertError("enough.")

    monkeypatch.setattr("cpumix.convert", convert)
    line = "convert a b --lora one --lora two:0.5 --lora C:three --lora four:-2 --lora five:nan"
    assert CliRunner().invoke(main, line.split()).exit_code == 1
    names = ["one", "two", "C:three", "four", "five:nan"]
    assert seen == list(zip(map(Path, names), [1.0, 0.5, 1.0, -2.0, 1.0], strict=True))


# ---- adapters that PEFT made


@pytest.mark.skipif(not SHARED.exists(), reason="no checkpoints beside this checkout")
@pytest.mark.parametrize(
    "name", ["peft-lora-v4-experts", "peft-lora-v5-target-parameters", "peft-dora"]
)
def test_adapters_of_peft(name: str) -> None:
    """Sums and first values: the order of a product's additions is not defined, so no digest."""
    from test_shared_checkpoints import transformers_names

    expected = json.loads((SHARED / name / "tensors.json").read_text())
    merged = merge_adapter(open_checkpoint(SHARED / "base" / "hf"), SHARED / name)
    for theirs, ours in transformers_names(merged.tensors).items():
        rows, facts = read(merged, ours, step=50).astype(float), expected[theirs]
        assert np.allclose(rows.reshape(-1)[:4], facts["first"], rtol=0, atol=1e-6)
        assert np.isclose(np.sqrt((rows**2).mean()), facts["rms"], rtol=1e-6)
        assert np.isclose(rows.sum(), facts["sum"], rtol=0, atol=1e-6 * rows.size**0.5 * 10)
