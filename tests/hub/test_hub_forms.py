"""Checkpoints of every form in several files, of which only some are on the disk at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from hashlib import sha1
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files
from checkpoints import MIXTRAL, write_shard
from gguf_files import metadata_of, sentencepiece_metadata, tensors_of, write_gguf
from hub_server import Server
from mistral_weights import MOE, PARAMS, first_release, mistral_names
from quantized_weights import FORMS as QUANTIZED
from quantized_weights import WIDE, quantized
from tiny_checkpoint import huggingface_names, make_weights

import cpumix
from cpumix.checkpoint import open_checkpoint
from cpumix.checkpoint.containers import CONTAINERS
from cpumix.checkpoint.head import read_head
from cpumix.errors import ConvertError
from cpumix.hub import HubName, open_shards
from cpumix.hub.repository import Repository

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the hub's package

NAME = HubName("org/tiny", None, None)
LAYERS = 4
SIZES = {"vocab_size": 600, "num_hidden_layers": LAYERS}
CONFIG, FIELDS = MIXTRAL | SIZES, PARAMS | MOE | {"vocab_size": 600, "n_layers": LAYERS}
Tensors = Mapping[str, Any]


def by_layer(tensors: Tensors) -> list[dict[str, Any]]:
    """Return what lies in each shard: the embedding, then each layer, then the rest."""
    parts: list[dict[str, Any]] = [{} for _ in range(LAYERS + 2)]
    for name, array in tensors.items():
        layer = re.search(r"(?:layers|blk)\.(\d+)\.", name)
        first = "embed" in name or "embd" in name
        parts[int(layer[1]) + 1 if layer else 0 if first else -1][name] = array
    return parts


def write_parts(
    folder: Path, pattern: str, tensors: Tensors, write: Callable[[Path, Any], object], index: str
) -> None:
    """Write shards, and their index if it is to have a name."""
    weight_map = {}
    parts = by_layer(tensors)
    for i, part in enumerate(parts):
        write(folder / (name := pattern.format(i, i + 1, len(parts))), part)
        weight_map |= dict.fromkeys(part, name)
    if index:
        (folder / index).write_text(json.dumps({"weight_map": weight_map}))


def transformers(
    folder: Path, pattern: str, write: Callable[[Path, Any], object], index: str = ""
) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tensors = huggingface_names(make_weights(CONFIG, seed=0), fused=False)
    write_parts(folder, pattern, tensors, write, index)


def mistral(folder: Path, pattern: str, write: Callable[[Path, Any], object]) -> None:
    """Write what Mistral released, or what mlx-examples made of it."""
    file = "config.json" if pattern.endswith(".npz") else "params.json"
    (folder / file).write_text(json.dumps(FIELDS))
    tensors = mistral_names(make_weights(CONFIG, seed=0))
    tensors = first_release(tensors, LAYERS) if pattern.endswith(".pt") else tensors
    write_parts(folder, pattern, tensors, write, "")


def write_npz(path: Path, tensors: Tensors) -> None:
    np.savez(path, **{name: bits.view("V2") for name, bits in tensors.items()})


def split_gguf(folder: Path) -> None:
    """Write the parts of a model, the first of which has no tensors."""
    tokenizer = sentencepiece_metadata((folder / "tokenizer.model").read_bytes())
    tensors = tensors_of(CONFIG, make_weights(CONFIG, seed=0))
    parts = [{}, *by_layer(tensors)]
    for i, part in enumerate(parts):
        metadata = metadata_of(CONFIG) | tokenizer if i == 0 else {}
        metadata |= {"split.no": i, "split.count": len(parts), "split.tensors.count": len(tensors)}
        write_gguf(folder / f"m-{i + 1:05}-of-{len(parts):05}.gguf", metadata, part)


def quantized_shards(folder: Path, form: str) -> None:
    config, (_, fields, files) = WIDE | SIZES, QUANTIZED[form]
    for file, content in {"config.json": config | fields, **files}.items():
        (folder / file).write_text(json.dumps(content))
    tensors, index = quantized(form, config)[0], "model.safetensors.index.json"
    write_parts(folder, "model-{1:05}-of-{2:05}.safetensors", tensors, write_shard, index)


BIN, BIN_INDEX = "pytorch_model-{1:05}-of-{2:05}.bin", "pytorch_model.bin.index.json"
FORMS: dict[str, Callable[[Path], None]] = {
    "bin": lambda f: transformers(f, BIN, torch_files.write_zip, BIN_INDEX),
    "bin-legacy": lambda f: transformers(f, BIN, torch_files.write_legacy, BIN_INDEX),
    "bin-without-index": lambda f: transformers(f, BIN, torch_files.write_zip),
    "consolidated": lambda f: mistral(f, "consolidated.{0:02}.safetensors", write_shard),
    "consolidated-pth": lambda f: mistral(f, "consolidated.{0:02}.pth", torch_files.write_zip),
    "consolidated-pt": lambda f: mistral(f, "consolidated.{0:02}.pt", torch_files.write_zip),
    "npz": lambda f: mistral(f, "weights.{0}.npz", write_npz),
    "gguf": split_gguf,
    "mlx": lambda f: quantized_shards(f, "mlx"),
    "gptq": lambda f: quantized_shards(f, "gptq-file"),
    "awq": lambda f: quantized_shards(f, "awq"),
    "compressed-tensors": lambda f: quantized_shards(f, "compressed-tensors"),
}


@pytest.fixture(params=FORMS)
def shards(request: pytest.FixtureRequest, server: Server) -> list[str]:
    """Give the repository a form; return the names of its shards."""
    return offer(server, FORMS[request.param])


def offer(server: Server, write: Callable[[Path], None]) -> list[str]:
    for path in server.folder.iterdir():
        if path.name != "tokenizer.model":
            path.unlink()
    write(server.folder)
    names = sorted(path.name for path in server.folder.iterdir())
    return [n for n in names if "json" not in n and n != "tokenizer.model"]


def here(server: Server, shards: list[str]) -> int:
    """Return how many shards the cache has, those that are on their way included."""
    blobs = server.folder.parent / "cache/models--org--tiny/blobs"
    found = {path.name[:40] for path in blobs.iterdir()} if blobs.exists() else set()
    return len(found & {sha1((server.folder / name).read_bytes()).hexdigest() for name in shards})


@pytest.fixture
def whole(shards: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Return what an ordinary conversion makes of it."""
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(tmp_path / "another"))
        cpumix.convert("org/tiny", tmp_path / "whole.bin", "int8")
    return (tmp_path / "whole.bin").read_bytes()


def test_shards_come_and_go_one_by_one(
    shards: list[str],
    server: Server,
    whole: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, fetch = [], Repository.fetch_one

    def fetch_one(self: Repository, name: str, bar: Any) -> Path:
        seen.append(here(server, shards) + 1)
        return fetch(self, name, bar)

    monkeypatch.setattr(Repository, "fetch_one", fetch_one)
    server.taken.clear()
    cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", discard_shards=True)
    assert (tmp_path / "x.bin").read_bytes() == whole
    assert max(seen) <= 2 < len(shards) and here(server, shards) == 0
    used = shards[shards[0].endswith("gguf") :]  # its first part has no tensors
    assert [name for name in server.taken if name in shards] == used


def test_interrupted_conversion_fetches_only_what_is_missing(
    shards: list[str], server: Server, whole: bytes, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"discard_shards": True, "resume": True}
    server.taken.clear()

    def interrupt(done: int, total: int) -> None:
        if shards[-2] in server.taken:  # so those before the one before it are converted
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", progress=interrupt, **options)
    server.taken.clear()
    report = cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", **options)
    assert report.resumed > 0 and (tmp_path / "x.bin").read_bytes() == whole
    assert {name for name in server.taken if name in shards} <= set(shards[-3:])
    assert here(server, shards) == 0


def test_heads_are_those_of_the_files(shards: list[str], server: Server) -> None:
    place, opened = open_shards(NAME)
    assert opened is not None
    checkpoint = open_checkpoint(place, (), opened.heads)
    assert not {*server.taken} & {*shards}
    for path, head in opened.heads.items():
        mine = read_head(server.folder / path.name, CONTAINERS[path.suffix])
        assert head.tensors.keys() == mine.tensors.keys()
        assert head.metadata.keys() == mine.metadata.keys()
        for name, tensor in head.tensors.items():
            other = mine.tensors[name]
            assert (tensor.offset, tensor.nbytes) == (other.offset, other.nbytes)
    norm = checkpoint.tensors["output_norm.weight"]
    assert norm.read_rows(0, norm.shape[0]).any() and not {*server.taken} & {*shards}


@pytest.mark.parametrize("form", ["bin", "bin-legacy"])
def test_head_that_takes_many_reads_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    shards = offer(server, FORMS[form])
    monkeypatch.setattr("cpumix.hub.shards._MOST_READS", 12)
    _, opened = open_shards(NAME)
    assert opened is not None
    taken = {name for name in server.taken if name in shards}
    assert taken == {*shards[1:-1]}  # of the first and the last one the head is short
    cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", discard_shards=True)
    assert here(server, shards) == 0


def test_hostile_pickle_on_the_hub_is_not_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = offer(server, FORMS["bin"])
    program = b"\x80\x02cos\nsystem\n" + torch_files.text("touch executed") + b"\x85R."
    torch_files.write_entries(server.folder / shards[2], {"x/data.pkl": program})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConvertError, match=r'found the name "os.system". Nothing in it was run'):
        cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", discard_shards=True)
    assert not (tmp_path / "executed").exists() and not {*server.taken} & {*shards}


def test_part_of_a_split_model_that_the_hub_lacks(server: Server) -> None:
    shards = offer(server, split_gguf)
    (server.folder / shards[3]).unlink()
    place, opened = open_shards(NAME)
    assert opened is not None
    with pytest.raises(ConvertError, match="a split model has 7 parts, and this one is absent"):
        open_checkpoint(place, (), opened.heads)


@pytest.mark.parametrize("form", ["gguf", "bin"])
def test_model_in_one_file_is_downloaded_whole(server: Server, tmp_path: Path, form: str) -> None:
    def write(folder: Path) -> None:
        weights = make_weights(CONFIG, seed=0)
        if form == "gguf":
            tokenizer = sentencepiece_metadata((folder / "tokenizer.model").read_bytes())
            metadata = metadata_of(CONFIG) | tokenizer
            write_gguf(folder / "m.gguf", metadata, tensors_of(CONFIG, weights))
        else:
            (folder / "config.json").write_text(json.dumps(CONFIG))
            tensors = huggingface_names(weights, fused=False)
            torch_files.write_zip(folder / "pytorch_model.bin", tensors)

    shards = offer(server, write)
    place, opened = open_shards(NAME)
    assert opened is None and open_checkpoint(place).tensors and here(server, shards) == 1
    cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", discard_shards=True)
    assert here(server, shards) == 0
