"""The tool that writes random checkpoints: sizes, names, determinism, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from click.testing import CliRunner, Result
from make_checkpoint import Tensor, main, split_shards, synthetic_tokenizer, to_bf16
from tiny_checkpoint import shapes, to_f32

pytestmark = pytest.mark.slow

TINY = (
    *("--layers", "1", "--hidden", "64", "--intermediate", "96", "--heads", "4"),
    *("--kv-heads", "2", "--experts", "4", "--vocab", "600", "--shard-bytes", "100000"),
)


def make(out: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["--out", str(out), *TINY, *options])


def read_shards(folder: Path) -> dict[str, np.ndarray]:
    """Read all tensors by the format's definition, checking that the index names their shard."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    tensors = {}
    for shard in folder.glob("*.safetensors"):
        data = shard.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        del header["__metadata__"]
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            bits = np.frombuffer(data[start + begin : start + end], dtype=np.uint16)
            tensors[name] = bits.reshape(entry["shape"])
            assert index[name] == shard.name
    assert index.keys() == tensors.keys()
    return tensors


@pytest.mark.parametrize("options", [(), ("--fused",), ("--experts", "1"), ("--head-dim", "24")])
def test_checkpoint_has_the_weights_of_its_config(tmp_path: Path, options: tuple[str, ...]) -> None:
    result = make(tmp_path, *options)
    assert result.exit_code == 0, result.output
    tensors = read_shards(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    expected = sum(int(np.prod(shape)) for shape in shapes(config).values())
    assert sum(bits.size for bits in tensors.values()) == expected
    assert (to_f32(tensors["model.norm.weight"]) == 1).all()
    assert to_f32(tensors["lm_head.weight"]).std() == pytest.approx(0.02, rel=0.05)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1


def test_checkpoint_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert make(tmp_path / name, "--seed", seed).exit_code == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert first != {path.name: path.read_bytes() for path in (tmp_path / "c").iterdir()}


def test_checkpoint_opens_with_our_reader(tmp_path: Path) -> None:
    from cpumix.checkpoint import open_checkpoint

    assert make(tmp_path).exit_code == 0
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config.num_local_experts == 4
    assert "blk.0.expert.3.w2" in checkpoint.tensors


def test_synthetic_tokenizer_loads_and_spells_any_text() -> None:
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=synthetic_tokenizer(32000))
    assert tokenizer.vocab_size() == 32000
    assert (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id()) == (0, 1, 2)
    text = "Hello  world, 42 caf\u00e9s \U0001f642"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text.encode())  # letters do merge


def test_tokenizer_is_copied(tmp_path: Path) -> None:
    own = tmp_path / "own.model"
    own.write_bytes(synthetic_tokenizer(500))
    assert make(tmp_path / "out", "--tokenizer", str(own)).exit_code == 0
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == own.read_bytes()


def test_split_shards_keeps_order_and_size() -> None:
    tensors = [Tensor(str(n), (size,)) for n, size in enumerate([4, 4, 20, 1, 1])]
    names = [[t.name for t in shard] for shard in split_shards(tensors, 16)]
    assert names == [["0", "1"], ["2"], ["3", "4"]]


def test_to_bf16_rounds_to_nearest_even() -> None:
    assert to_bf16(np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8])).tolist() == [0x3F80, 0x3F80, 0x3F82]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--hidden", "66"), "--hidden 66 is not a multiple of --heads 4: give --head-dim."),
        (("--kv-heads", "3"), "--heads 4 is not a multiple of --kv-heads 3."),
        (("--experts-per-token", "5"), "--experts-per-token 5 is more than --experts 4."),
    ],
)
def test_impossible_options_are_refused(
    tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    result = make(tmp_path / "out", *options)
    assert result.exit_code == 1
    assert sentence in result.output
    assert not (tmp_path / "out").exists()


def test_full_disk_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("make_checkpoint.shutil.disk_usage", lambda path: usage)
    result = make(tmp_path)
    assert result.exit_code == 1
    assert "the checkpoint needs 0.0 GB, 0.0 GB are free: " in result.output
    assert list(tmp_path.iterdir()) == []


def test_used_folder_is_refused_without_force(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = make(tmp_path)
    assert result.exit_code == 1
    assert f"--out is not empty; use --force to write there: {tmp_path}" in result.output
    assert make(tmp_path, "--force").exit_code == 0
    result = make(tmp_path / "file")
    assert result.exit_code == 1
    assert "--out is a file, not a folder: " in result.output
