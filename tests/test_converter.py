"""A conversion writes exactly what the formats define, whatever form the checkpoint has."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from click.testing import CliRunner
from tiny_checkpoint import to_f32

import cpumix
import cpumix.converter.slices
from cpumix.cli.main import main
from cpumix.config import ModelConfig
from cpumix.errors import ConvertError
from cpumix.memory.planner import CEILING, choose_precision, make_plan
from cpumix.quant import FLOAT32, FORMATS
from cpumix.quant.precision import PRECISIONS
from cpumix.store import ModelFile, TensorEntry
from cpumix.tokenizer import Tokenizer

# Sizes that are no multiples of a tile's 16 rows or 32 columns.
MOE = checkpoints.MIXTRAL | {"vocab_size": 300, "hidden_size": 40, "intermediate_size": 56}
DENSE = checkpoints.LLAMA | {"vocab_size": 300, "hidden_size": 40, "intermediate_size": 56}
MODULE = cpumix.converter.slices


def write(folder: Path, config: dict[str, Any] = MOE, **options: Any):
    """Write a checkpoint with a tokenizer that works; return its weights."""
    return checkpoints.write_checkpoint(folder, config, **options)


def convert(folder: Path, precision: str = "int4", **options: Any) -> bytes:
    """Convert and return the bytes of the model file."""
    target = folder.with_name("model.bin")
    cpumix.convert(folder, target, precision, force=True, **options)
    return target.read_bytes()


def expected_bytes(entry: TensorEntry, weights: dict[str, Any], precision: str) -> bytes:
    """Return a tensor's bytes by the NumPy definitions, from float32 or bfloat16 weights."""
    assert entry.format == PRECISIONS[precision].format(entry.spec)
    made = []
    for part, kind in entry.parts:
        weight = weights[part]
        wide = to_f32(weight) if weight.dtype == np.uint16 else weight.astype(np.float32)
        made.append((wide if kind == FLOAT32 else FORMATS[kind].quantize(wide)).tobytes())
    return b"".join(made)


def check_file(target: Path, weights: dict[str, Any], precision: str) -> None:
    with ModelFile(target) as file:
        assert file.precision == precision
        file.verify()
        for name, entry in file.tensors.items():
            assert file.data(name).tobytes() == expected_bytes(entry, weights, precision), name


@pytest.mark.slow
@pytest.mark.parametrize("rows_at_once", [None, 16])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("config", [MOE, DENSE, DENSE | {"tie_word_embeddings": True}])
def test_every_tensor_is_what_its_format_defines(
    tmp_path, monkeypatch, config, precision, rows_at_once
):
    if rows_at_once:
        monkeypatch.setattr(MODULE, "SLICE_BYTES", 1)
    weights = write(tmp_path / "source", config)
    convert(tmp_path / "source", precision)
    check_file(tmp_path / "model.bin", weights, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_weights_of_other_types_are_not_rounded_first(tmp_path, dtype, precision):
    random = np.random.default_rng(0)
    weights = write(tmp_path / "source")
    named = checkpoints.huggingface_names(
        {name: random.normal(0, 1, bits.shape).astype(dtype) for name, bits in weights.items()},
        fused=False,
    )
    write(tmp_path / "source", change=named)
    ours = {name: named[source] for name, source in source_names().items()}
    convert(tmp_path / "source", precision)
    check_file(tmp_path / "model.bin", ours, precision)


def source_names() -> dict[str, str]:
    """Return the checkpoint's name of each canonical one."""
    names = list(checkpoints.make_weights(MOE, seed=0))
    fake = {name: np.array([i]) for i, name in enumerate(names)}
    renamed = checkpoints.huggingface_names(fake, fused=False)
    return {names[int(value[0])]: source for source, value in renamed.items()}


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_same_bytes_from_every_form_of_a_checkpoint(tmp_path, monkeypatch, precision):
    forms = [
        {},
        {"fused": True},
        {"shards": 3},
        {"shards": 3, "index": False},
        {"dtype": "F32"},
        {"dtype": "F32", "fused": True, "shards": 2},
    ]
    digests = set()
    for number, form in enumerate([*forms, {}]):
        folder = tmp_path / str(number) / "source"
        folder.parent.mkdir()
        write(folder, **form)
        digests.add(hashlib.sha256(convert(folder, precision)).hexdigest())
    monkeypatch.setattr(MODULE, "SLICE_BYTES", 5000)
    digests.add(hashlib.sha256(convert(tmp_path / "0" / "source", precision)).hexdigest())
    assert len(digests) == 1


def test_file_has_config_and_tokenizer_of_the_checkpoint(tmp_path):
    write(tmp_path / "source")
    (tmp_path / "source" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    convert(tmp_path / "source")
    with ModelFile(tmp_path / "model.bin") as file:
        assert file.config == ModelConfig.from_huggingface(MOE, "MOE")
        assert file.files == {
            name: (tmp_path / "source" / name).read_bytes()
            for name in ("tokenizer.model", "chat_template.jinja")
        }
        assert file.metadata["general.name"] == "source"


def test_progress_goes_up_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "SLICE_BYTES", 1)
    write(tmp_path / "source")
    calls = []
    convert(tmp_path / "source", progress=lambda done, total: calls.append((done, total)))
    dones, totals = zip(*calls, strict=True)
    assert list(dones) == sorted(dones)
    assert len(set(dones)) == len(dones) > 100
    report = cpumix.convert(tmp_path / "source", tmp_path / "again.bin", "int8")
    assert set(totals) == {dones[-1]} == {report.source_bytes}


def test_report(tmp_path):
    write(tmp_path / "source")
    target = tmp_path / "model.bin"
    report = cpumix.convert(str(tmp_path / "source"), str(target), "int8")
    with ModelFile(target) as file:
        assert report.tensors == len(file.tensors)
    assert report.target == target
    assert report.precision == "int8"
    assert report.file_bytes == target.stat().st_size
    shard = (tmp_path / "source" / "model.safetensors").stat().st_size
    assert 0.9 * shard < report.source_bytes < shard
    assert report.seconds > 0


@pytest.mark.parametrize("spare", [0, -1])
@pytest.mark.parametrize("precision", ["bf16", "int8", "int2"])  # a mix is better than the others
def test_auto_is_what_the_planner_says(tmp_path, precision, spare):
    config = MOE | {"hidden_size": 128, "intermediate_size": 256}
    write(tmp_path / "source", config)
    ours = ModelConfig.from_huggingface(config, "config.json")
    plan = make_plan(ours, precision, ours.max_position_embeddings, 1 << 40)
    ram = math.ceil(plan.total_bytes / CEILING) + spare
    report = cpumix.convert(tmp_path / "source", tmp_path / "model.bin", "auto", ram=ram)
    with ModelFile(tmp_path / "model.bin") as file:
        assert file.precision == report.precision
    planned = choose_precision(ours, ram, ours.max_position_embeddings).precision
    assert report.precision == planned
    is_taken = spare == 0 or precision == "int2"  # the smallest one even where it does not fit
    assert (report.precision == precision) == is_taken


def test_auto_without_ram_takes_this_machine(tmp_path):
    write(tmp_path / "source")
    assert cpumix.convert(tmp_path / "source", tmp_path / "model.bin").precision == "bf16"


def test_command_prints_one_json_object(tmp_path):
    write(tmp_path / "source")
    arguments = [str(tmp_path / "source"), str(tmp_path / "model.bin"), "--json"]
    result = CliRunner().invoke(main, ["convert", *arguments, "--precision", "int4"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["target"] == str(tmp_path / "model.bin")
    assert report["file_bytes"] == (tmp_path / "model.bin").stat().st_size
    assert set(report) >= {"precision", "source_bytes", "seconds", "tensors"}
    assert "model.bin: int4, " in result.stderr


def test_model_in_use_survives_its_replacement(tmp_path):
    write(tmp_path / "source")
    convert(tmp_path / "source", "int8")
    with cpumix.load(tmp_path / "model.bin", threads=1) as model:
        before = model.logits([1, 2, 3])
        convert(tmp_path / "source", "int4")
        np.testing.assert_array_equal(model.logits([1, 2, 3]), before)
    with cpumix.load(tmp_path / "model.bin", threads=1) as model:
        assert (model.logits([1, 2, 3]) != before).any()


def test_field_that_the_user_has_ignored(tmp_path):
    write(tmp_path / "plain")
    write(tmp_path / "strange", logit_scale=2)
    runner, target = CliRunner(), tmp_path / "model.bin"
    words = ["convert", str(tmp_path / "strange"), str(target), "--precision", "int8"]
    refused = runner.invoke(main, words)
    assert (refused.exit_code, target.exists()) == (1, False)
    assert 'use --ignore-field "logit_scale".' in refused.stderr
    done = runner.invoke(main, [*words, "--ignore-field", "logit_scale"])
    assert (done.exit_code, target.exists()) == (0, True)
    planned = runner.invoke(
        main, ["fit", "--no-probe", words[1], "--ram", "8G", "--ignore-field", "logit_scale"]
    )
    assert planned.exit_code == 0


def test_damaged_side_files_are_named_and_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    write(folder)
    whole = convert(folder)
    (folder / "generation_config.json").write_text("{")
    (folder / "special_tokens_map.json").write_text("[]")
    target = folder.with_name("model.bin")
    arguments = ["convert", str(folder), str(target), "--precision", "int4", "--force"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    for name in ("generation_config.json", "special_tokens_map.json"):
        (note,) = [line for line in result.stderr.splitlines() if name in line]
        assert note.startswith(f"Note: {name}: expected ")
        assert note.endswith(". Went on without it.")
    assert target.read_bytes() == whole


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 42\n"


def test_pointers_of_git_lfs_are_named_and_left_out(tmp_path: Path) -> None:
    """Those that the model does without; the others are refused."""
    folder, target = tmp_path / "source", tmp_path / "model.bin"
    write(folder)
    whole = convert(folder)
    optional = ["chat_template.jinja", "tokenizer.model.v3", "tokenizer_config.json"]
    for name in optional:
        (folder / name).write_text(POINTER)
    notes = cpumix.convert(folder, target, "int4", force=True).notes
    for name, note in zip(optional, sorted(notes), strict=True):
        assert note == (
            f'"{folder / name}": expected the file itself, found a git-lfs pointer to it. Run '
            "`git lfs pull` in the checkpoint's folder. Went on without it."
        )
    assert target.read_bytes() == whole
    (folder / "tokenizer.json").write_text(POINTER)  # it may have tokens that the model has not
    with pytest.raises(ConvertError, match=r'/tokenizer.json": expected the file itself, found'):
        cpumix.convert(folder, target, "int4", force=True)
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink()
    with pytest.raises(ConvertError, match=r'/tokenizer.model.v3": expected the file itself'):
        cpumix.convert(folder, target, "int4", force=True)


def test_tekken_becomes_a_file_that_is_quick_to_read(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    config = MOE | {"vocab_size": 1100}
    write(folder, config)
    (folder / "tokenizer.model").unlink()
    source = Path(__file__).parent / "data/tokenizer/tekken.json"
    (folder / "tekken.json").write_bytes(source.read_bytes())
    target = folder.with_name("model.bin")
    report = cpumix.convert(folder, target, "int4")
    assert not report.notes
    with ModelFile(target) as file:
        assert sorted(file.files) == ["tokenizer.json", "tokenizer_config.json"]
        tokenizer = Tokenizer.from_files(file.files)
    assert tokenizer.encode_chat([{"role": "user", "content": "hi"}])[:2] == [1, 3]
