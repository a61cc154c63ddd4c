"""The comparison with llama.cpp: the GGUF file it writes, and the run against stand-in programs."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import compare_llama_cpp
import llama_gguf
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_models import CONFIGS, write_source

from cpumix.checkpoint import open_checkpoint
from cpumix.config import ModelConfig
from cpumix.store import gguf

pytestmark = pytest.mark.slow

ALIGNMENT = 32


@pytest.fixture(params=["moe", "dense"])
def source(request, tmp_path):
    return write_source(tmp_path / "checkpoint", CONFIGS[request.param])


def read(path: Path) -> tuple[gguf.Header, dict[str, np.ndarray]]:
    """Return the header, and the tensors as float32."""
    data = path.read_bytes()
    with open(path, "rb") as stream:
        header = gguf.parse_header(stream, len(data), str(path))
    start = -(-header.end // ALIGNMENT) * ALIGNMENT
    tensors = {}
    for t in header.tensors:
        kind = {30: np.uint16, 0: np.float32}[t.type]
        count = int(np.prod(t.shape))
        values = np.frombuffer(data, kind, count, start + t.offset).reshape(t.shape)
        tensors[t.name] = (values.astype(np.uint32) << 16).view(np.float32) if t.type else values
    return header, tensors


def original(source: Path, name: str) -> np.ndarray:
    tensor = open_checkpoint(source).tensors[name]
    rows = tensor.read_rows(0, tensor.shape[0])
    return (rows.astype(np.uint32) << 16).view(np.float32)


def test_gguf_has_every_weight_where_llama_cpp_looks(source, tmp_path):
    llama_gguf.write(source, tmp_path / "m.gguf")
    header, tensors = read(tmp_path / "m.gguf")
    config: ModelConfig = open_checkpoint(source).config
    assert header.metadata["llama.block_count"] == config.num_hidden_layers
    assert len(header.metadata["tokenizer.ggml.tokens"]) == config.vocab_size
    assert sum(t.size for t in tensors.values()) == sum(
        np.prod(spec.shape) for spec in config.tensors()
    )
    for name in ("token_embd.weight", "blk.1.attn_v.weight", "blk.0.ffn_norm.weight"):
        np.testing.assert_array_equal(tensors[name], original(source, name))
    for theirs, ours in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
        experts = [
            original(source, f"blk.1.expert.{e}.{ours}") for e in range(config.num_local_experts)
        ]
        if config.is_moe:
            np.testing.assert_array_equal(tensors[f"blk.1.ffn_{theirs}_exps.weight"], experts)
        else:
            np.testing.assert_array_equal(tensors[f"blk.1.ffn_{theirs}.weight"], experts[0])
    if config.is_moe:
        router = original(source, "blk.0.router.weight")
        np.testing.assert_array_equal(tensors["blk.0.ffn_gate_inp.weight"], router)


def test_rotated_pairs_become_neighbours(source, tmp_path):
    llama_gguf.write(source, tmp_path / "m.gguf")
    _, tensors = read(tmp_path / "m.gguf")
    config = open_checkpoint(source).config
    counts = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, heads in counts.items():
        halves = original(source, f"blk.0.{name}.weight").reshape(heads, config.head_dim, -1)
        pairs = tensors[f"blk.0.{name}.weight"].reshape(heads, config.head_dim, -1)
        half = config.head_dim // 2
        for i in range(half):
            np.testing.assert_array_equal(pairs[:, 2 * i], halves[:, i])
            np.testing.assert_array_equal(pairs[:, 2 * i + 1], halves[:, half + i])


BENCH = """#!{python}
import json, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
times = float(words.get("-fast", 1))
assert open(words["-m"], "rb").read(4) == b"GGUF"
samples = lambda speed: [speed / 8, speed, 9 * speed][:int(words["-r"])]
rows = []
for slower in map(int, words["-fa"].split(",")):  # as on a machine where it helps decode only
    prompts, decode = times / (1 + slower), times / (2 - slower)
    for n in map(int, words["-p"].split(",")):
        rows.append(dict(n_prompt=n, n_gen=0, samples_ts=samples(prompts * 2 * n)))
    rows.append(dict(n_prompt=0, n_gen=int(words["-n"]), samples_ts=samples(decode * 4)))
print(json.dumps(rows))
"""
QUANTIZE = """#!{python}
import shutil, sys
assert sys.argv[3] in ("Q4_0", "Q4_K_M", "Q8_0") and sys.argv[4] == "1"
shutil.copy(sys.argv[1], sys.argv[2])
"""


@pytest.fixture
def programs(tmp_path):
    """A `llama-bench` and a `llama-quantize` that do as the real ones, in no time."""
    if os.name == "nt":
        pytest.skip("scripts are no programs there")
    for name, text in (("llama-bench", BENCH), ("llama-quantize", QUANTIZE)):
        (tmp_path / name).write_text(text.format(python=sys.executable))
        (tmp_path / name).chmod(stat.S_IRWXU)
    return tmp_path / "llama-bench"


def test_table_of_ratios(tmp_path, programs):
    source = write_source(tmp_path / "checkpoint", CONFIGS["moe"])
    options = [source, "--llama-bench", programs, "--rounds", 1, "--threads", 1]
    options += ["--fork", f"{programs} -fast 3", "--fork", f"{programs} -fast 2"]
    result = CliRunner().invoke(compare_llama_cpp.main, [*map(str, options), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    rows = report["rows"]
    assert len(report["memory_gb_s"]) == 1
    assert report["memory_gb_s"][0] > 0
    found = {(r["work"], r["tokens"], r["precision"], r["type"], r["engine"]): r for r in rows}
    assert len(found) == len(rows) == 30  # five kinds of work, three types, two engines
    for (work, tokens, _, _, engine), row in found.items():
        times = {"llama.cpp": 1, "fork": 3}[engine]
        assert row["other"] == times * (4 if work == "decode" else 2 * tokens)
        assert row["other_spread"] == [row["other"], row["other"]]
        assert row["ratio"] == pytest.approx(row["cpumix"] / row["other"])
    (programs.parent / "llama-quantize").unlink()
    again = CliRunner().invoke(compare_llama_cpp.main, list(map(str, options)))
    assert again.exit_code == 0, again.output  # what was made is used again
    assert " times\n" in again.stdout
    assert "memory in these rounds: " in again.stdout


def test_failure_of_a_program_is_told(tmp_path, programs):
    source = write_source(tmp_path / "checkpoint", CONFIGS["dense"])
    quantize = programs.with_name("llama-quantize")
    quantize.write_text(f"#!{sys.executable}\nraise SystemExit('out of luck')\n")
    options = [source, "--llama-bench", programs, "--threads", 1]
    result = CliRunner().invoke(compare_llama_cpp.main, list(map(str, options)))
    assert result.exit_code == 1
    assert "llama-quantize failed with status 1: out of luck" in result.stderr


def test_without_llama_cpp_nothing_is_made(tmp_path, monkeypatch):
    source, folder = write_source(tmp_path / "checkpoint", CONFIGS["moe"]), tmp_path / "made"
    monkeypatch.setattr(compare_llama_cpp, "find_spec", lambda name: None)
    result = CliRunner().invoke(compare_llama_cpp.main, [str(source), "--folder", str(folder)])
    assert result.exit_code == 2
    assert "expected --llama-bench or an installed llama-cpp-python, found neither" in result.output
    assert not folder.exists()
