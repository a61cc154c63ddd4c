"""`cpumix inspect` on small model files and checkpoints."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from checkpoints import LLAMA, MIXTRAL, write_checkpoint, write_shard
from click.testing import CliRunner
from gguf_files import byte_level_metadata, metadata_of, tensors_of, write_gguf
from model_files import CONFIG, FILES, write
from tiny_checkpoint import make_weights

import cpumix
from cpumix import inspector
from cpumix.checkpoint.sources.gguf import byte_level as gguf_byte_level
from cpumix.cli.main import main
from cpumix.quant.precision import CODED, PRECISIONS
from cpumix.store import strings


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "tiny.bin")


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_inspect_prints_what_is_there(model):
    result = invoke("inspect", model)
    assert result.exit_code == 0
    first, *rest = result.stdout.splitlines()
    assert first.startswith(f"{model}: int4, ")
    assert any("6 tensors in q4" in line for line in rest)  # 2 layers of 3 experts
    assert any("256 bytes  tokenizer.model" in line for line in rest)
    assert any(line.split() == ["hidden_size", "40"] for line in rest)
    assert any(line.startswith("  chat templates: ") for line in rest)
    assert any("memory to run at int4" in line for line in rest)


def test_inspect_prints_json(model):
    facts = json.loads(invoke("inspect", model, "--json").stdout)
    assert facts["path"] == str(model)
    assert facts["precision"] == "int4"
    assert facts["file_bytes"] == model.stat().st_size
    assert facts["formats"]["q4"]["tensors"] == 6
    assert facts["files"] == {name: len(data) for name, data in FILES.items()}
    assert facts["config"] == json.loads(CONFIG.to_json())


def test_low_copies_are_a_group_of_their_own(tmp_path, model):
    """They are no weights of the model's: it has as many without them."""
    with_copies = write(tmp_path / "low.bin", replace(CODED, low="q2s"))
    facts = json.loads(invoke("inspect", with_copies, "--json").stdout)
    assert facts["groups"]["low copies"]["q2s"]["tensors"] == 6
    without = json.loads(invoke("inspect", model, "--json").stdout)
    assert facts["parameters"] == without["parameters"]
    assert "low copies" in invoke("inspect", with_copies).stdout


def test_inspect_of_checkpoints(tmp_path):
    """The same facts from a folder, from a GGUF file, and from the model file made of them."""
    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96}
    folder = tmp_path / "hf"
    write_checkpoint(folder, MIXTRAL | sizes)
    cpumix.convert(folder, tmp_path / "m.bin", CODED)
    cpumix.export(tmp_path / "m.bin", tmp_path / "m.gguf")
    found = {
        name: json.loads(invoke("inspect", tmp_path / name, "--json").stdout)
        for name in ("hf", "m.bin", "m.gguf")
    }
    assert [f["source"] for f in found.values()] == ["Hugging Face", "model file", "GGUF"]
    assert len({json.dumps(f["parameters"]) for f in found.values()}) == 1
    total, active = found["hf"]["parameters"].values()
    assert total - active == 2 * 2 * 3 * 64 * 96  # 2 layers, 2 of 4 experts idle
    assert found["hf"]["groups"]["experts"].keys() == {"BF16"}
    assert found["m.gguf"]["groups"]["experts"] == {
        "IQ4_NL": {"tensors": 24, "weights": 24 * 64 * 96, "bytes": 24 * 64 * 96 * 18 // 32}
    }
    assert found["m.gguf"]["groups"]["routers"]["F32"]["tensors"] == 2
    assert found["hf"]["memory"]["bytes"].keys() == set(PRECISIONS)
    assert found["m.bin"]["memory"]["bytes"].keys() == {"int4"}
    tokenizers = [f["tokenizer"] for f in found.values()]
    assert tokenizers == ["tokenizer.model", "tokenizer.model", "sentencepiece, 300 tokens"]
    assert found["m.gguf"]["files"] == {}
    text = invoke("inspect", tmp_path / "m.gguf").stdout
    assert text.startswith(f"{tmp_path / 'm.gguf'}: GGUF, ")
    assert "MixtralForCausalLM: 211,264 weights" in text
    assert "experts: 24 tensors in IQ4_NL" in text


def test_inspect_of_a_dense_model(tmp_path):
    write_checkpoint(tmp_path / "hf", LLAMA | {"vocab_size": 300})
    facts = json.loads(invoke("inspect", tmp_path / "hf", "--json").stdout)
    assert facts["groups"]["feed-forward"]["BF16"]["tensors"] == 6
    assert facts["parameters"]["total"] == facts["parameters"]["active"]


@pytest.mark.parametrize("kind", ["PEFT", "mlx-lm", "Mistral"])
def test_inspect_of_an_adapter(tmp_path, kind):
    names = {
        "PEFT": "adapter_model.safetensors",
        "mlx-lm": "adapters.safetensors",
        "Mistral": "lora.safetensors",
    }
    part = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    parts = {f"{part}A.weight": np.ones((4, 16), "f4"), f"{part}B.weight": np.ones((16, 4), "f4")}
    write_shard(tmp_path / names[kind], parts)
    settings = {"r": 4, "lora_alpha": 8, "base_model_name_or_path": "a\x1bmodel", "bias": "none"}
    if kind != "Mistral":
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    facts = json.loads(invoke("inspect", tmp_path, "--json").stdout)
    assert (facts["source"], facts["kind"]) == ("adapter", kind)
    assert (facts["tensors"], facts["nbytes"]) == (2, 512)
    assert facts["settings"] == ({} if kind == "Mistral" else {"r": 4, "lora_alpha": 8})
    text = invoke("inspect", tmp_path).stdout
    assert text.startswith(f"{tmp_path}: {kind} adapter, 512 bytes in 2 tensors")
    assert ("trained on: not named" if kind == "Mistral" else r'trained on: "a\x1bmodel"') in text


@pytest.fixture
def byte_level(tmp_path):
    """A GGUF file whose tokenizer has merges; change its bytes to damage them."""
    metadata = byte_level_metadata()
    config = LLAMA | {"vocab_size": len(metadata["tokenizer.ggml.tokens"])}
    tensors = tensors_of(config, make_weights(config, seed=0))
    return write_gguf(tmp_path / "m.gguf", metadata_of(config) | metadata, tensors)


MERGES = byte_level_metadata()["tokenizer.ggml.merges"]


def test_plans_neither_decode_merges_nor_write_a_tokenizer(byte_level, monkeypatch):
    """The numbers are those of the written file; `convert` decodes and writes."""
    decoded, written = [], []

    def spies(module, name, seen):
        original = getattr(module, name)

        def spy(*arguments):
            seen.append(original(*arguments))
            return seen[-1]

        monkeypatch.setattr(module, name, spy)

    spies(strings, "_decode", decoded)
    spies(strings.Strings, "_decode_each", decoded)
    spies(gguf_byte_level, "_encode", written)
    facts = json.loads(invoke("inspect", byte_level, "--json").stdout)
    fit = invoke("fit", byte_level, "--no-probe", "--ram", "4G", "--json")
    assert fit.exit_code == 0
    assert byte_level_metadata()["tokenizer.ggml.tokens"] in decoded
    assert MERGES not in decoded
    assert all(not json.loads(text)["model"]["merges"] for text in written)
    target = byte_level.with_name("m.bin")
    cpumix.convert(byte_level, target, "int8")
    assert MERGES in decoded
    assert json.loads(written[-1])["model"]["merges"] == MERGES
    found = json.loads(invoke("inspect", target, "--json").stdout)
    assert facts["memory"]["bytes"]["int8"] == found["memory"]["bytes"]["int8"]


@pytest.mark.parametrize("damage", ["count", "length", "text"])
def test_merges_that_lie_are_refused_when_they_are_read(byte_level, damage):
    """A count or a length that is wrong ends every command, a text that is none what decodes it."""
    data = byte_level.read_bytes()
    at = data.index(b"tokenizer.ggml.merges") + len(b"tokenizer.ggml.merges") + 8
    count, length = (int.from_bytes(data[place : place + 8], "little") for place in (at, at + 8))
    place, lie, sentence = {
        "count": (at, (count + 1).to_bytes(8, "little"), ""),
        "length": (at + 8, (length + 1).to_bytes(8, "little"), ""),
        "text": (at + 16, b"\xff", '"tokenizer.ggml.merges", string 0: expected UTF-8'),
    }[damage]
    assert count == len(MERGES)
    byte_level.write_bytes(data[:place] + lie + data[place + len(lie) :])
    convert = invoke("convert", byte_level, byte_level.with_name("m.bin"))
    inspect = invoke("inspect", byte_level)
    assert convert.exit_code == 1
    assert sentence in convert.stderr
    assert "The file is damaged: copy or download it again." in convert.stderr
    assert inspect.exit_code == int(damage != "text")
    assert damage == "text" or inspect.stderr == convert.stderr


@pytest.mark.parametrize("damaged", [False, True])
def test_nothing_looks_for_garbage_meanwhile(model, damaged, monkeypatch):
    """And something does again afterwards, whatever happened."""
    seen, read = [], inspector.inspect

    def inspect(path):
        seen.append(gc.isenabled())
        return read(path)

    monkeypatch.setattr(inspector, "inspect", inspect)
    if damaged:
        model.write_bytes(b"")
    assert gc.isenabled()
    assert invoke("inspect", model).exit_code == damaged
    assert seen == [False]
    assert gc.isenabled()


def test_inspect_imports_no_compiler(model):
    code = (
        "import sys; from cpumix.cli.main import main\n"
        f"main(['inspect', {str(model)!r}], standalone_mode=False)\n"
        "assert not {'numba', 'llvmlite', 'jinja2', 'tokenizers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_no_such_file(command, tmp_path):
    result = invoke(command, tmp_path / "none.bin")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No such file or directory" in result.stderr
    assert result.stderr.count("\n") == 1
