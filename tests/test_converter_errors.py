"""A conversion that cannot be done says why in a sentence and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import checkpoints
import numpy as np
import pytest
from tiny_checkpoint import to_f32

import cpumix
import cpumix.converter.conversion
import cpumix.converter.slices
from cpumix.errors import ConfigError, ConvertError, CpumixError
from cpumix.store import ModelFile
from cpumix.store.partial import check_target

pytestmark = pytest.mark.slow

MODULE = cpumix.converter.slices
CONFIG = checkpoints.MIXTRAL | {"vocab_size": 300, "hidden_size": 40, "intermediate_size": 56}
WEIGHTS = checkpoints.huggingface_names(checkpoints.make_weights(CONFIG, seed=0), fused=False)
ROUTER = "model.layers.1.block_sparse_moe.gate.weight"
EXPERT = "model.layers.1.block_sparse_moe.experts.2.w2.weight"
NORM = "model.layers.0.input_layernorm.weight"
PRECISIONS = ("bf16", "int8", "int4")


@pytest.fixture
def source(tmp_path) -> Path:
    return write(tmp_path)


def write(tmp_path: Path, **options) -> Path:
    checkpoints.write_checkpoint(tmp_path / "source", CONFIG, **options)
    return tmp_path / "source"


def damaged(name: str, value: float, dtype: str, place: int) -> np.ndarray:
    """Return a weight in which one number is another; dtype "bfloat16" gives bits."""
    wide = to_f32(WEIGHTS[name]).copy()
    wide.reshape(-1)[place] = value
    if dtype == "bfloat16":
        return (wide.view(np.uint32) >> 16).astype(np.uint16)
    return wide.astype(dtype)


def refuse(source: Path, precision: str, error: type[CpumixError], message: str, **options) -> None:
    """Convert; expect an error and no trace of a target."""
    target = source.with_name("model.bin")
    with pytest.raises(error, match=message):
        cpumix.convert(source, target, precision, **options)
    assert [path.name for path in target.parent.iterdir()] == [source.name]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", [EXPERT, "lm_head.weight", ROUTER, NORM])
def test_weight_that_is_no_number_is_named(tmp_path, name, dtype, value, precision):
    place = WEIGHTS[name].size // 2 + 3
    source = write(tmp_path, change={name: damaged(name, value, dtype, place)})
    rows = len(WEIGHTS[name])
    message = (
        f'tensor "{name}": expected finite weights, found NaN or infinity between rows 0 and '
        rf'{rows - 1}. The checkpoint is damaged: .* File ".*model.safetensors"\.'
    )
    refuse(source, precision, ConvertError, message)


def test_last_weight_of_the_last_slice_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "SLICE_BYTES", 1)
    source = write(tmp_path, change={EXPERT: damaged(EXPERT, np.nan, "bfloat16", -1)})
    refuse(source, "int4", ConvertError, "found NaN or infinity between rows 32 and 39")


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("sign", [1, -1])
def test_weight_too_large_to_scale_is_named(tmp_path, precision, sign):
    source = write(tmp_path, change={EXPERT: damaged(EXPERT, sign * 5e6, "float32", 7)})
    message = r"expected weights up to 4.19e\+06, which 8 and 4 bits can scale, found 5e\+06. Use -"
    refuse(source, precision, ConvertError, message)
    cpumix.convert(source, tmp_path / "model.bin", "bf16")


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_largest_weight_that_is_accepted_stays_finite(tmp_path, precision):
    change = {EXPERT: np.full(WEIGHTS[EXPERT].shape, 4e6, np.float32)}
    source = write(tmp_path, change=change)
    cpumix.convert(source, tmp_path / "model.bin", precision)
    with cpumix.load(tmp_path / "model.bin", threads=1) as model:
        scales = model.file.data("blk.1.expert.2")[-32:].view(np.float16)
        assert np.isfinite(scales).all()


def test_weight_that_bfloat16_would_round_to_infinity(tmp_path):
    value = np.uint32(0x7F7F8000).view(np.float32)
    source = write(tmp_path, change={EXPERT: damaged(EXPERT, value, "float32", 0)})
    refuse(source, "bf16", ConvertError, "expected finite weights, found NaN or infinity")
    below = np.uint32(0x7F7F7FFF).view(np.float32)
    source = write(tmp_path, change={EXPERT: damaged(EXPERT, below, "float32", 0)})
    cpumix.convert(source, tmp_path / "model.bin", "bf16")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [ROUTER, NORM])
def test_norm_or_router_too_large_to_compute_with_is_named(tmp_path, name, precision):
    source = write(tmp_path, change={name: damaged(name, 1e30, "float32", 3)})
    message = "expected numbers of a norm, router or bias up to 1e\\+09, found 1e\\+30"
    refuse(source, precision, ConvertError, message)
    source = write(tmp_path, change={name: damaged(name, 9e8, "float32", 3)})
    cpumix.convert(source, tmp_path / "model.bin", precision)


@pytest.mark.parametrize("precision", ["int5", "INT4", "", "mix-0", "mix-11"])
def test_unknown_precision(source, precision):
    refuse(source, precision, ConfigError, "precision: expected one of bf16, int8, int4")


@pytest.mark.parametrize("ram", ["lots", "64", 0, -5])
def test_ram_that_is_no_size(source, ram):
    refuse(source, "auto", ConfigError, "size: ", ram=ram)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "tokenizer.model: "),
        (b"not a tokenizer", "tokenizer.model: "),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (None, "tokenizer missing: expected tokenizer.model, tokenizer.json or tekken"),
    ],
)
def test_tokenizer_that_cannot_be_read(source, content, message):
    path = source / "tokenizer.model"
    path.unlink() if content is None else path.write_bytes(content)
    refuse(source, "int8", CpumixError, message)


def test_target_without_a_folder(source):
    with pytest.raises(ConvertError, match="target: expected an existing folder around it"):
        cpumix.convert(source, source.parent / "none" / "model.bin", "int8")


def test_existing_target_is_refused_and_left_alone(source):
    target = source.with_name("model.bin")
    target.write_text("mine")
    with pytest.raises(ConvertError, match=r"an existing file at .* Use --force to replace it"):
        cpumix.convert(source, target, "int8")
    assert target.read_text() == "mine"
    target.chmod(0o644)
    cpumix.convert(source, target, "int8", force=True)
    assert target.read_bytes()[:4] == b"GGUF"


def test_failed_replacement_leaves_the_old_file(tmp_path):
    source = write(tmp_path, change={NORM: damaged(NORM, np.nan, "float32", 0)})
    target = tmp_path / "model.bin"
    target.write_text("mine")
    with pytest.raises(ConvertError, match="expected finite weights"):
        cpumix.convert(source, target, "int8", force=True)
    assert target.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "source"]


FILES = ["model.safetensors", "config.json", "tokenizer.model"]


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
@pytest.mark.parametrize("name", FILES)
def test_file_of_the_checkpoint_as_target(source, name, link):
    target = own = source / name
    if link is not None:
        link(own, target := source.with_name("model.bin"))
    before = own.read_bytes()
    message = "expected a file of its own, found a file of the checkpoint or of an adapter"
    with pytest.raises(ConvertError, match=message):
        cpumix.convert(source, target, "int8", force=True)
    assert own.read_bytes() == before


def test_gguf_file_as_its_own_target(source):
    cpumix.convert(source, model := source.with_name("m.bin"), "int8")
    cpumix.export(model, gguf := source.with_name("m.gguf"))
    before = gguf.read_bytes()
    with pytest.raises(ConvertError, match="expected a file of its own"):
        cpumix.convert(gguf, gguf, "int8", force=True)
    with pytest.raises(ConvertError, match="expected another file than the model itself"):
        cpumix.export(model, model, force=True)
    assert gguf.read_bytes() == before


def test_file_of_an_adapter_as_target(source, tmp_path, monkeypatch):
    (adapter := tmp_path / "adapter").mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(
        cpumix.converter.conversion, "merge_adapter", lambda checkpoint, folder, times: checkpoint
    )
    with pytest.raises(ConvertError, match="or of an adapter"):
        cpumix.convert(
            source, adapter / "adapter_config.json", "int8", lora=[(adapter, 1.0)], force=True
        )
    assert (adapter / "adapter_config.json").read_text() == "{}"


def test_model_file_beside_the_weights_may_be_replaced(source):
    for precision in ("int4", "int8"):
        cpumix.convert(source, source / "model.cpumix", precision, force=True)
    with ModelFile(source / "model.cpumix") as file:
        assert file.precision == "int8"


def test_target_that_another_conversion_makes_meanwhile(source, monkeypatch):
    """After the last look at the target: the renaming itself replaces nothing."""
    target = source.with_name("model.bin")
    looks = []

    def look(path, force):
        check_target(path, force)
        looks.append(path)
        if len(looks) == 2:
            path.write_text("theirs")

    monkeypatch.setattr("cpumix.store.writer.check_target", look)
    with pytest.raises(ConvertError, match=r"an existing file at .* Use --force to replace it"):
        cpumix.convert(source, target, "int8")
    assert target.read_text() == "theirs"
    assert sorted(path.name for path in source.parent.iterdir()) == ["model.bin", "source"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_interruption_leaves_nothing(source, error):
    def interrupt(done: int, total: int) -> None:
        if done > total / 2:
            raise error

    with pytest.raises(error):
        cpumix.convert(source, source.with_name("model.bin"), "int4", progress=interrupt)
    assert [path.name for path in source.parent.iterdir()] == ["source"]


@pytest.mark.parametrize("place", [0.0, 0.5])
def test_shard_that_shrinks_meanwhile(source, place):
    shard = source / "model.safetensors"

    def cut(done: int, total: int) -> None:
        if done > place * total:
            os.truncate(shard, 3000)

    refuse(source, "int4", ConvertError, '".*model.safetensors"', progress=cut)


def test_writer_that_fails_stops_the_conversion(source, monkeypatch):
    from cpumix.store.partial import PartialFile

    wrote = []

    def write(self, offset, data):
        wrote.append(offset)
        if len(wrote) == 5:
            raise ConvertError("disk space: gone.")

    monkeypatch.setattr(PartialFile, "write", write)
    refuse(source, "int4", ConvertError, "disk space: gone")
    assert len(wrote) <= 6


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 200 KiB, of which a model file takes more."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_disk_too_small(source, small_disk):
    with pytest.raises(ConvertError, match=r"disk space: .* needed, 200.0 KiB free, .* Free "):
        cpumix.convert(source, small_disk / "model.bin", "bf16")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("allocates", [True, False])
def test_disk_that_fills_up_meanwhile(source, small_disk, monkeypatch, allocates):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 40))
    if not allocates:
        monkeypatch.delattr("os.posix_fallocate")
    with pytest.raises(ConvertError, match="needed, the disk or quota is full, for"):
        cpumix.convert(source, small_disk / "model.bin", "bf16")
    assert list(small_disk.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limits of a process's files")
def test_limit_on_the_size_of_files(source):
    line = f"ulimit -f 64; exec {sys.executable} -m cpumix convert {source} {source}.bin"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cpumix: error: file size: " in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in source.parent.iterdir()] == ["source"]
