"""Conversions that have only some shards on the disk at a time."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from checkpoints import MIXTRAL, Split, in_runs, write_checkpoint, write_shard
from hub_server import Server

import cpumix
from cpumix.checkpoint import open_checkpoint
from cpumix.converter.shard_disposal import ShardDisposal, delete, most_space, written_together
from cpumix.converter.slices import Slice
from cpumix.errors import ConfigError, ConvertError
from cpumix.hub import HubName, download, open_shards
from cpumix.hub.repository import Repository

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the hub's package

NAME = HubName("org/tiny", None, None)
SHARDS = 6
FIRST_BYTES = 16384 * 4  # of a model file: its header, which has the source's name
FIELDS = {"vocab_size": 600, "num_hidden_layers": 4}


@pytest.fixture
def shards(server: Server) -> Path:
    """Give the repository shards as real ones are; return where the cache shows them."""
    return offer(server, MIXTRAL | FIELDS, SHARDS, in_runs)


def offer(server: Server, config: dict[str, Any], shards: int, split: Split) -> Path:
    """Give the repository other shards; return where the cache shows them."""
    for path in server.folder.glob("model*"):
        path.unlink()
    tokenizer = (server.folder / "tokenizer.model").read_bytes()
    write_checkpoint(server.folder, config, shards=shards, split=split, tokenizer=tokenizer)
    folder, opened = open_shards(NAME)
    assert opened is not None
    return folder


def here(folder: Path) -> list[str]:
    """Return the shards that a folder of the cache has, by number."""
    return [path.name[6:11] for path in sorted(folder.glob("model-*")) if path.exists()]


def blobs(folder: Path) -> int:
    """Return how many large files the cache keeps; one that is just complete gets another name."""
    count = 0
    for path in (folder.parents[1] / "blobs").iterdir():
        with suppress(FileNotFoundError):
            count += path.stat().st_size > 20000
    return count


@pytest.fixture
def whole(server: Server, tmp_path: Path) -> bytes:
    cpumix.convert(server.folder, tmp_path / "whole.bin", "int8")
    return (tmp_path / "whole.bin").read_bytes()[FIRST_BYTES:]


def test_a_file_goes_before_what_links_to_it(tmp_path: Path, monkeypatch) -> None:
    """What no longer exists takes no space: else a third shard was fetched beside two."""
    (blob := tmp_path / "blob").write_bytes(b"x")
    (link := tmp_path / "link").symlink_to(blob)
    gone, unlink = [], Path.unlink

    def note(self: Path, missing_ok: bool = False) -> None:
        gone.append(self)
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", note)
    delete(link)
    assert gone == [blob, link]
    assert list(tmp_path.iterdir()) == []


def test_shards_come_and_go_one_by_one(shards: Path, whole: bytes, tmp_path: Path) -> None:
    seen = []

    def progress(*_: int) -> None:
        seen.append((here(shards), blobs(shards)))

    target = tmp_path / "x.bin"
    cpumix.convert("org/tiny", target, "int8", discard_shards=True, progress=progress)
    assert target.read_bytes()[FIRST_BYTES:] == whole
    assert max(count for _, count in seen) <= 2 < SHARDS
    assert {number for names, _ in seen for number in names} >= {f"{n:05}" for n in range(2, 6)}
    assert here(shards) == [] and blobs(shards) == 0
    assert (shards / "config.json").exists()
    with cpumix.load(target) as model:
        assert len(model.logits([1, 2, 3])) == 3


def by_name(names: list[str], shards: int) -> list[list[str]]:
    """Fill shards in the order of names: layers 10 and 11 come before layer 2."""
    return in_runs(sorted(names), shards)


def by_kind(names: list[str], shards: int) -> list[list[str]]:
    """Put what experts begin with into the first shard, what they end with into the last."""
    first = [n for n in names if n.endswith(("w1.weight", "w3.weight", "embed_tokens.weight"))]
    last = [n for n in names if n.endswith("w2.weight")]
    return [first, [n for n in names if n not in first + last], last]


@pytest.mark.parametrize(
    ("split", "shards", "layers", "options"),
    [
        pytest.param(by_kind, 3, 4, {}, id="plain"),
        pytest.param(by_name, 6, 12, {"calibrate": True, "calibration_tokens": 1}, id="calibrated"),
    ],
)
def test_no_shard_is_fetched_twice(
    server: Server,
    tmp_path: Path,
    split: Split,
    shards: int,
    layers: int,
    options: dict[str, Any],
) -> None:
    """Of a checkpoint whose shards are not used up one after the other."""
    folder = offer(server, MIXTRAL | FIELDS | {"num_hidden_layers": layers}, shards, split)
    server.taken.clear()
    cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", discard_shards=True, **options)
    fetched = [name[6:11] for name in server.taken if name.endswith("safetensors")]
    assert sorted(fetched) == [f"{n:05}" for n in range(1, shards + 1)]
    assert here(folder) == []


def test_all_is_looked_at_before_any_shard_is_downloaded(
    shards: Path, server: Server, tmp_path: Path
) -> None:
    head = server.folder / "model-00003-of-00006.safetensors"
    data = bytearray(head.read_bytes())
    head.write_bytes(data.replace(b"BF16", b"BF61", 1))
    with pytest.raises(ConvertError, match="BF61"):
        cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", discard_shards=True)
    assert not any(name.endswith(".safetensors") for name in server.taken)
    assert set(server.parts) == {f"model-{n:05}-of-00006.safetensors" for n in range(1, 7)}


def test_interrupted_conversion_fetches_only_what_is_missing(
    shards: Path, server: Server, whole: bytes, tmp_path: Path
) -> None:
    target, server.taken[:] = tmp_path / "x.bin", []

    def interrupt(done: int, total: int) -> None:
        if here(shards)[:1] == ["00003"]:  # the first two are converted
            raise KeyboardInterrupt

    options: dict[str, Any] = {"discard_shards": True, "resume": True}
    with pytest.raises(KeyboardInterrupt):
        cpumix.convert("org/tiny", target, "int8", progress=interrupt, **options)
    assert not target.exists()
    server.taken[:] = []
    report = cpumix.convert("org/tiny", target, "int8", **options)
    assert report.resumed > 0
    assert target.read_bytes()[FIRST_BYTES:] == whole
    again = {name[6:11] for name in server.taken if name.endswith("safetensors")}
    assert {"00005", "00006"} <= again <= {"00004", "00005", "00006"}
    assert here(shards) == [] and blobs(shards) == 0


def test_no_shard_goes_before_what_is_read_from_it_is_written(
    server: Server, tmp_path: Path
) -> None:
    """Of a calibrated conversion, which writes a layer's attention, or an expert, as a whole."""
    folder = offer(server, MIXTRAL | FIELDS | {"num_hidden_layers": 2}, SHARDS, in_runs)
    options: dict[str, Any] = {"calibrate": True, "calibration_tokens": 1}
    cpumix.convert(server.folder, tmp_path / "whole.bin", "int8", **options)
    options |= {"discard_shards": True, "resume": True}
    gone: set[str] = set()
    seen: set[str] = set()

    def interrupt(*_: int) -> None:
        seen.update(here(folder))
        if new := seen - gone - {*here(folder)}:
            gone.update(new)
            raise KeyboardInterrupt

    while not (tmp_path / "x.bin").exists():
        server.taken.clear()
        before = {*gone}
        with suppress(KeyboardInterrupt):
            cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", progress=interrupt, **options)
        assert not before & {name[6:11] for name in server.taken}
    assert len(gone) >= SHARDS - 1
    whole, made = ((tmp_path / name).read_bytes() for name in ("whole.bin", "x.bin"))
    assert made[FIRST_BYTES:] == whole[FIRST_BYTES:]


def test_another_commit_is_no_continuation(shards: Path, server: Server, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total * 0.6:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"discard_shards": True, "resume": True}
    with pytest.raises(KeyboardInterrupt):
        cpumix.convert("org/tiny", tmp_path / "x", "int8", progress=interrupt, **options)
    path = server.folder / "model-00001-of-00006.safetensors"
    path.write_bytes(path.read_bytes()[:-2] + b"\0\0")
    assert cpumix.convert("org/tiny", tmp_path / "x", "int8", **options).resumed == 0


def test_hub_that_refuses_a_shard(shards: Path, server: Server, tmp_path: Path) -> None:
    _, opened = open_shards(NAME)
    assert opened is not None
    server.gone.add("model-00002-of-00006.safetensors")
    opened.fetch(shards / "model-00001-of-00006.safetensors")
    with pytest.raises(ConvertError, match="found status 404"):
        opened.fetch(shards / "model-00002-of-00006.safetensors")
    with pytest.raises(ConvertError, match="found status 404"):
        cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", discard_shards=True)
    assert not (tmp_path / "x.bin").exists()


def test_broken_download_of_a_shard_goes_on(shards: Path, server: Server, tmp_path: Path) -> None:
    server.breaks = 2  # of a head, then of another
    with cpumix_converted(tmp_path):
        assert server.breaks == 0


def cpumix_converted(tmp_path: Path) -> cpumix.Model:
    cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", discard_shards=True)
    return cpumix.load(tmp_path / "x.bin")


def test_download_is_ended_with_the_conversion(shards: Path) -> None:
    _, opened = open_shards(NAME)
    assert opened is not None
    opened.close()
    with pytest.raises(ConvertError, match="hub: the download was ended"):
        opened.fetch(shards / "model-00001-of-00006.safetensors")


def test_heads_are_read_at_the_same_time(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_at_once, read = threading.Barrier(SHARDS, timeout=10), Repository.read_range

    def read_range(self: Repository, name: str, offset: int, count: int) -> bytes:
        all_at_once.wait()
        return read(self, name, offset, count)

    monkeypatch.setattr(Repository, "read_range", read_range)
    _, opened = open_shards(NAME)
    assert opened is not None
    assert list(opened.heads) == sorted(opened.sizes)


def test_head_of_a_shard_that_is_here_is_read_here(shards: Path, server: Server) -> None:
    _, before = open_shards(NAME)
    assert before is not None
    before.fetch(shards / "model-00002-of-00006.safetensors")
    server.parts.clear()
    _, opened = open_shards(NAME)
    assert opened is not None and opened.heads == before.heads
    assert set(server.parts) == {f"model-{n:05}-of-00006.safetensors" for n in (1, 3, 4, 5, 6)}


def test_small_tensors_need_no_shard(shards: Path, server: Server) -> None:
    _, opened = open_shards(NAME)
    assert opened is not None
    checkpoint, mine = open_checkpoint(shards, (), opened.heads), open_checkpoint(server.folder)
    server.taken.clear()
    for name in ("blk.3.attn_norm.weight", "blk.2.attn_k.weight"):
        rows = checkpoint.tensors[name].read_rows(0, 4)
        assert (rows == mine.tensors[name].read_rows(0, 4)).all()
    assert server.taken == []


def test_servers_that_answer_otherwise(shards: Path, server: Server, monkeypatch: Any) -> None:
    _, opened = open_shards(NAME)
    assert opened is not None
    tensor = open_checkpoint(shards, (), opened.heads).tensors["output_norm.weight"]
    monkeypatch.setattr(server, "ranges", False)
    with pytest.raises(ConvertError, match=r"found a server that sends whole files only. Leave"):
        tensor.read_rows(0, 4)
    monkeypatch.setattr(server, "ranges", True)
    path = server.folder / "model-00006-of-00006.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ConvertError, match=r'bytes of "model-00006.*" at byte \d+, found'):
        tensor.read_rows(0, 16)
    monkeypatch.setattr(type(opened._repository), "fetch_one", lambda *_: Path("/elsewhere"))
    with pytest.raises(ConvertError, match=r'expected the shard in ".*", found it at "/elsewhere"'):
        opened.fetch(shards / "model-00001-of-00006.safetensors")


def test_repository_of_one_file_is_downloaded_whole(server: Server, tmp_path: Path) -> None:
    for path in server.folder.glob("model*"):
        path.unlink()
    tokenizer = (server.folder / "tokenizer.model").read_bytes()
    write_checkpoint(server.folder, MIXTRAL | {"vocab_size": 600}, tokenizer=tokenizer)
    place, opened = open_shards(NAME)
    assert opened is None
    assert place == download(NAME)
    assert blobs(place) == 1
    cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", discard_shards=True)
    assert blobs(place) == 0


def test_without_a_connection_what_is_here_is_converted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = download(NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert open_shards(NAME) == (place, None)
    cpumix.convert("org/tiny", tmp_path / "x.bin", "int8", discard_shards=True)
    assert here(place) == [] and (tmp_path / "x.bin").exists()


def test_adapters_are_never_deleted(shards: Path, server: Server, tmp_path: Path) -> None:
    """One that replaces a whole matrix: its file is read as a shard is."""
    head = np.zeros((600, MIXTRAL["hidden_size"]), np.float32)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_shard(adapter / "adapter_model.safetensors", {"base_model.model.lm_head.weight": head})
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "modules_to_save": ["lm_head"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    target = tmp_path / "x.bin"
    cpumix.convert("org/tiny", target, "int8", lora=[(adapter, 1.0)], discard_shards=True)
    assert (adapter / "adapter_model.safetensors").exists()
    assert here(shards) == []


def test_shards_of_a_folder_are_never_deleted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a name on the hub as source, found"):
        cpumix.convert(tmp_path, tmp_path / "x.bin", discard_shards=True)


def test_threads_end_with_the_conversion(shards: Path, tmp_path: Path) -> None:
    cpumix_converted(tmp_path).close()
    assert not [t for t in threading.enumerate() if t.name.startswith("cpumix-fetch")]


def test_space_that_is_needed_at_most(tmp_path: Path) -> None:
    a, b = (tmp_path / name for name in "ab")
    a.write_bytes(bytes(100))
    b.write_bytes(bytes(50))
    both, first, second = frozenset({a, b}), frozenset({a}), frozenset({b})
    uses = [(both, 10), (first, 30), (second, 20), (second, 20)]
    assert most_space(uses, tmp_path, None, tmp_path / "x") == 40
    assert most_space([(second, 80), (first, 30)], tmp_path, None, tmp_path / "x") == 80
    assert most_space([], tmp_path, None, tmp_path / "x") == 0
    assert most_space(uses, tmp_path, None, Path("/proc/x")) == 80  # on another disk


def test_space_for_shards_that_are_still_to_come(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    fake: Any = SimpleNamespace(sizes={a: 100, b: 50, c: 30})
    uses = [(frozenset({path}), 10) for path in (a, b, c)]
    # a and b, then b and c without a, then c alone
    assert most_space(uses, tmp_path, fake, tmp_path / "x") == 160
    a.write_bytes(b"")  # this one is here
    assert most_space(uses, tmp_path, fake, tmp_path / "x") == 60


def test_space_while_what_is_written_together_lies_in_two_shards(tmp_path: Path) -> None:
    """The first one is there until the second is read, when the third is fetched already."""
    a, b, c = (tmp_path / name for name in "abc")
    fake: Any = SimpleNamespace(sizes={a: 1000, b: 500, c: 300})

    def of(path: Path, layer: int) -> Slice:
        entry: Any = SimpleNamespace(spec=SimpleNamespace(layer=layer, expert=0))
        source: Any = SimpleNamespace(paths=frozenset({path}), shape=(64, 32))
        return Slice(entry, "bf16", source, 0, 64)

    slices = [of(a, 0), of(b, 0), of(b, 1), of(c, 1)]
    nbytes = 64 * 32 * 2
    uses = list(written_together(slices))
    assert uses == [(frozenset({a, b}), 2 * nbytes), (frozenset({b, c}), 2 * nbytes)]
    assert most_space(uses, tmp_path, fake, tmp_path / "x") == max(
        1000 + 500 + 300 + 2 * nbytes, 500 + 300 + 4 * nbytes
    )


def test_shard_that_was_used_up_is_not_begun_again(tmp_path: Path) -> None:
    a, b, c = (tmp_path / name for name in "abc")
    begun = []

    def fetch(path: Path) -> None:
        if not path.exists():
            begun.append(path)
            path.touch()

    asked: list[Path] = []
    fake: Any = SimpleNamespace(sizes={}, fetch=fetch, fetch_ahead=asked.append)
    uses = [frozenset({path}) for path in (a, b, a, a, c, a)]
    disposal = ShardDisposal(uses, tmp_path, fake)
    for paths in uses:
        disposal.need(paths)
        disposal.done(paths)
    assert begun == [a, b, c] == [a, *asked]
    assert not any(path.exists() for path in (a, b, c))


def test_next_shard_is_begun_when_one_is_here(tmp_path: Path) -> None:
    """Not while one that was read is still to be written, nor beside two that share an expert."""
    a, b, c, d = (tmp_path / name for name in "abcd")
    asked: list[Path] = []
    fake: Any = SimpleNamespace(sizes={}, fetch=Path.touch, fetch_ahead=asked.append)
    uses = [frozenset({path}) for path in (a, b, a, b, c, d)]
    disposal = ShardDisposal(uses, tmp_path, fake)
    disposal.need(uses[0])
    assert asked == [b]
    begun = [[b], [b], [b, c], [b, c, d], [b, c, d]]
    for written, needed, expected in zip(uses, uses[1:], begun, strict=False):
        before = [*asked]
        disposal.need(needed)
        assert asked == before and sum(path.exists() for path in (a, b, c, d)) <= 2
        disposal.done(written)
        assert asked == expected
    disposal.done(uses[-1])
    assert not any(path.exists() for path in (a, b, c, d))


def test_what_an_interrupted_conversion_left_is_deleted(tmp_path: Path) -> None:
    a, b = (tmp_path / name for name in "ab")
    a.write_bytes(b"1")
    b.write_bytes(b"2")
    fake: Any = SimpleNamespace(sizes={a: 1, b: 1})
    ShardDisposal([frozenset({b})], tmp_path, fake)
    assert not a.exists() and b.exists()
