"""`cpumix perplexity` on a tiny model."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from cpumix.cli.main import main

pytestmark = pytest.mark.slow

TEXT = "In the beginning God created the heaven and the earth. " * 20


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def models(checkpoint_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for level in ("bf16", "int4"):
        target = folder / f"{level}.bin"
        assert invoke("convert", checkpoint_folder, target, "--precision", level).exit_code == 0
    (folder / "text.txt").write_text(TEXT)
    return folder


def test_score_and_comparison(models):
    bf16 = models / "bf16.bin"
    options = ["--context", 64, "--windows", 2, "--against", bf16]
    result = invoke("perplexity", models / "int4.bin", models / "text.txt", *options)
    assert result.exit_code == 0
    score, *comparison = result.stdout.splitlines()
    assert score.startswith("perplexity  ")
    assert score.endswith(", 62 tokens in 2 windows of 64")
    *comparison, others, by_layer = comparison
    names = [f"against {bf16}", "ratio", "KL divergence", "same top token", "probabilities"]
    assert [line.split("  ")[0] for line in comparison] == names
    number = r"[0-9.e-]+"
    spread = f"median {number}, 99 % below {number}, maximum {number}"
    assert re.search(f"{number} \\+- {number}; {spread}$", comparison[2])
    assert re.search(r" [0-9.]+ % \+- [0-9.]+ %$", comparison[3])
    assert re.match(r"other experts +[0-9.]+ % \+- [0-9.]+ %$", others)
    assert re.match(r"  by layer +[0-9.]+  [0-9.]+$", by_layer)


def test_score_alone(models):
    result = invoke("perplexity", models / "int4.bin", models / "text.txt", "--context", 64)
    assert result.exit_code == 0
    assert re.fullmatch(r"perplexity  [0-9.]+ \+- [0-9.]+, .*\n", result.stdout)


def test_json_of_a_model_against_itself(models):
    bf16 = models / "bf16.bin"
    options = ["--context", 64, "--against", bf16, "--json"]
    result = json.loads(invoke("perplexity", bf16, models / "text.txt", *options).stdout)
    assert result["perplexity"] > 1
    assert result["context"] == 64
    assert result["against"]["ratio"] == 1
    assert result["against"]["kl_divergence"] == 0
    assert result["against"]["same_top"] == 1
    assert result["against"]["other_experts_by_layer"] == [0, 0]


def test_cache_of_a_model_against_its_own(models):
    """--kv is for the model that is scored, not for the one it is compared with."""
    int4 = models / "int4.bin"
    options = ["--context", 64, "--kv", "int8", "--against", int4, "--json"]
    result = json.loads(invoke("perplexity", int4, models / "text.txt", *options).stdout)
    assert 0 < result["against"]["kl_divergence"] < 0.01
    assert result["against"]["ratio"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "text: cannot be read (No such file or directory): "),
        (b"caf\xe9", "expected UTF-8 text, found byte 0xe9 at position 3."),
        (b"Too short.", "text: expected at least 512 tokens, one window"),
    ],
)
def test_bad_text(models, tmp_path, content, sentence):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    result = invoke("perplexity", models / "bf16.bin", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr
