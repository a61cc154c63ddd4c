"""A prefix that was saved is found again, bit for bit; what does not fit is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from naive import config
from tiny_models import CONFIGS, write_model

import cpumix
from cpumix.cli.main import main
from cpumix.errors import ConfigError, CpumixError, FormatError
from cpumix.kv.pool import BlockPool
from cpumix.kv.prefix import PrefixCache
from cpumix.kv.saved import Origin, load, save
from cpumix.kv.table import BlockTable

SHAPE = {"num_key_value_heads": 2, "num_attention_heads": 2, "head_dim": 16, "num_hidden_layers": 3}
TEXT = np.random.default_rng(0).integers(0, 1000, 150).tolist()


def filled(kv: str) -> tuple[BlockPool, PrefixCache]:
    """A pool with random numbers, whose prefix cache knows TEXT."""
    pool, random = BlockPool(config(**SHAPE), 5, kv), np.random.default_rng(1)
    prefix = PrefixCache(pool)
    BlockTable(pool, 1)
    table = BlockTable(pool, 3)
    table.prepare(0, len(TEXT))
    for layer in range(3):
        for part in pool.layer(layer):
            part[:] = random.integers(0, 100, part.shape)
    prefix.register(table.blocks, TEXT, 0)
    table.close()
    return pool, prefix


@pytest.mark.parametrize("kv", ["f16", "int8", "f32"])
def test_what_is_saved_is_restored(tmp_path, kv):
    pool, prefix = filled(kv)
    origin = Origin("a model", kv, 0, False)
    assert save(tmp_path / "state", pool, prefix, TEXT, origin) == len(TEXT)
    other = BlockPool(config(**SHAPE), 8, kv)
    cache = PrefixCache(other)
    assert load(tmp_path / "state", other, cache, origin) == TEXT
    match = cache.match([*TEXT, 5])
    assert (match.tokens, len(match.blocks), match.copied) == (150, 2, (2,))
    blocks = [*match.blocks, *match.copied]
    assert other.export(blocks) == pool.export([1, 2, 3])
    for layer in range(3):
        for a, b in zip(pool.layer(layer)[:2], other.layer(layer)[:2], strict=True):
            step = a.shape[1] // 5
            assert (a[:, step : 4 * step] == b[:, : 3 * step]).all()


@pytest.mark.parametrize(
    ("origin", "what"),
    [
        (Origin("another", "f16", 0, False), "another model: expected .another., found .a model."),
        (Origin("a model", "int8", 0, False), "another kv: expected .int8., found .f16."),
        (Origin("a model", "f16", 512, False), "another context: expected .512., found .0."),
        (Origin("a model", "f16", 0, True), "another low_copies: expected .True., found .False."),
    ],
)
def test_what_is_of_another_origin_is_refused(tmp_path, origin, what):
    pool, prefix = filled("f16")
    save(tmp_path / "state", pool, prefix, TEXT, Origin("a model", "f16", 0, False))
    with pytest.raises(ConfigError, match=f"was made with {what}"):
        load(tmp_path / "state", pool, prefix, origin)


def test_damage_is_seen(tmp_path, monkeypatch):
    pool, prefix = filled("f16")
    origin = Origin("a model", "f16", 0, False)
    save(path := tmp_path / "state", pool, prefix, TEXT, origin)
    data = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(data)
        broken[random.integers(12, len(data))] ^= 1 << random.integers(8)
        path.write_bytes(broken[: len(broken) - random.integers(0, 2)])
        with pytest.raises(CpumixError, match=r"is damaged\. Delete it"):
            load(path, pool, prefix, origin)
    path.write_bytes(b"GGUF" + data)
    with pytest.raises(FormatError, match="was not made by --prompt-cache"):
        load(path, pool, prefix, origin)
    with pytest.raises(FormatError, match=r"prompt cache: .* cannot be read"):
        load(tmp_path / "none", pool, prefix, origin)
    monkeypatch.setattr("cpumix.kv.saved.VERSION", 3)
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"has version .*, expected 3"):
        load(path, pool, prefix, origin)
    assert (pool.held, pool.reserved) == (1, 0)


def test_what_a_dead_process_left_is_removed(tmp_path):
    pool, prefix = filled("f16")
    (tmp_path / ".state.0123abcd.partial").write_bytes(b"half")
    save(tmp_path / "state", pool, prefix, TEXT, Origin("a model", "f16", 0, False))
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_no_room(tmp_path):
    pool, prefix = filled("f16")
    origin = Origin("a model", "f16", 0, False)
    save(tmp_path / "state", pool, prefix, TEXT, origin)
    small = BlockPool(config(**SHAPE), 2, "f16")
    with pytest.raises(ConfigError, match=r"the 150 tokens of .* do not fit into the context"):
        load(tmp_path / "state", small, PrefixCache(small), origin)
    with pytest.raises(ConfigError, match=r"cannot be written: .* Name another place"):
        save(tmp_path / "no" / "state", pool, prefix, TEXT, origin)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"), CONFIGS["moe"], "int8")


def test_run_goes_on_from_what_an_earlier_run_saved(model, tmp_path):
    prompt, state = "one two three " * 15, str(tmp_path / "state")

    def run(text: str) -> tuple[str, dict]:
        arguments = ["-p", text, "-n", "8", "--seed", "1", "--raw", "--prompt-cache", state]
        stats = tmp_path / "stats.json"
        result = CliRunner().invoke(main, ["run", str(model), *arguments, "--stats-json", stats])
        assert result.exit_code == 0, result.output
        return result.stdout, json.loads(stats.read_text())

    first, stats = run(prompt)
    assert stats["cached_tokens"] == 0
    again, stats = run(prompt)
    assert again == first
    assert stats["cached_tokens"] == stats["prompt_tokens"] - 1
    _, stats = run(prompt + " and more")
    assert stats["prompt_tokens"] - 10 < stats["cached_tokens"] < stats["prompt_tokens"]


def test_model_saves_nothing_where_a_window_has_passed_the_beginning(tmp_path):
    path = write_model(tmp_path, CONFIGS["window"], "int8")
    with cpumix.load(path) as model:
        prompt = "one two three " * 40
        generation = model.generate(prompt, max_tokens=2)
        list(generation)
        assert model.save_prompt(tmp_path / "state", generation) == 0
        assert not (tmp_path / "state").exists()
