"""Opening a model file: what it gives, what it refuses, and how long views live."""

import dataclasses
import io
import json
import mmap
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpumix.config import ModelConfig

from cpumix.errors import ConvertError, FormatError
from cpumix.store import (
    ModelFile,
    ModelWriter,
    TensorEntry,
    build_entries,
    build_metadata,
    gguf,
    layout,
    reader,
    residency,
)

CONFIG = ModelConfig(
    architecture="MixtralForCausalLM",
    vocab_size=50,
    hidden_size=40,
    intermediate_size=56,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    num_local_experts=3,
    num_experts_per_tok=2,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    rope_theta=1e6,
    rope_scaling=None,
    sliding_window=None,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_ids=(2,),
)
FILES = {
    "tokenizer.model": bytes(range(256)),
    "generation_config.json": b"{}",
    "chat_template.jinja": "{{ '日本' }}".encode(),
}
Entries = Sequence[TensorEntry]


def content(entry: TensorEntry) -> bytes:
    """Bytes that differ from tensor to tensor; valid float32 as well."""
    return np.random.default_rng(entry.nbytes).integers(0, 100, entry.nbytes, np.uint8).tobytes()


def write(
    path: Path,
    precision: str = "int4",
    change: Callable[[dict[str, Any]], Any] = lambda metadata: None,
    entries: Entries | None = None,
    config: ModelConfig = CONFIG,
) -> Path:
    """Write a whole model file, with changed metadata or other tensors than it should have."""
    metadata = build_metadata(config, precision, FILES, "tiny")
    change(metadata)
    entries = build_entries(config, precision) if entries is None else entries
    with ModelWriter(path, metadata, entries, force=True) as writer:
        for entry in entries:
            writer.write(entry.name, content(entry))
        writer.commit()
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(FormatError, match=message) as error:
        ModelFile(path)
    assert str(error.value).startswith(f'"{path}": ')


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "m.cpumix")


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_file_gives_back_what_was_written(tmp_path: Path, precision: str) -> None:
    path = write(tmp_path / "m.cpumix", precision)
    with ModelFile(path) as file:
        assert (file.path, file.config, file.precision) == (path, CONFIG, precision)
        assert file.files == FILES
        assert file.mapped_bytes == path.stat().st_size
        entries = build_entries(CONFIG, precision)
        assert list(file.tensors) == [e.name for e in entries]
        for e in entries:
            tensor = file.tensors[e.name]
            assert (tensor.format, tensor.shape, tensor.nbytes) == (e.format, e.shape, e.nbytes)
            assert tensor.offset % 16384 == 0
            data = file.data(e.name)
            assert (data.dtype, data.shape, data.flags.writeable) == (np.uint8, (e.nbytes,), False)
            assert data.ctypes.data % mmap.PAGESIZE == 0
            assert data.tobytes() == content(e)
        assert file.data("blk.0.router.weight").view(np.float32).shape == (3 * 40,)
        file.verify()


def test_entries_are_the_dense_part_then_the_experts() -> None:
    entries = build_entries(CONFIG, "int4")
    names = [e.name for e in entries]
    assert names[0] == "token_embd.weight"
    assert names[-8:-6] == ["output_norm.weight", "output.weight"]
    assert names[-6:] == [f"blk.{layer}.expert.{e}" for layer in range(2) for e in range(3)]
    by_name = {e.name: e for e in entries}
    # w1 and w3 are 56 x 40: 4 x 2 tiles; w2 is 40 x 56: 3 x 2 tiles
    assert by_name["blk.1.expert.2"] == TensorEntry("blk.1.expert.2", "q4", (3, 56, 40), 22 * 288)
    assert by_name["output.weight"] == TensorEntry("output.weight", "q8", (50, 40), 8 * 544)
    assert by_name["blk.0.router.weight"].format == "f32"
    assert by_name["output_norm.weight"] == TensorEntry("output_norm.weight", "f32", (40,), 160)


def test_dense_model_with_tied_embeddings_round_trips(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        architecture="MistralForCausalLM",
        num_local_experts=1,
        num_experts_per_tok=1,
        tie_word_embeddings=True,
        sliding_window=16,
    )
    with ModelFile(write(tmp_path / "m", config=config)) as file:
        assert file.config == config
        assert not {"output.weight", "blk.0.router.weight"} & file.tensors.keys()
        assert file.expert_name(1, 0) in file.tensors
        assert file.metadata["llama.attention.sliding_window"] == 16
        assert "llama.expert_count" not in file.metadata


def test_metadata_has_the_keys_of_gguf(model: Path) -> None:
    with ModelFile(model) as file:
        assert next(iter(file.metadata)) == "cpumix.header.crc32"
        expected = {
            "general.architecture": "llama",
            "general.name": "tiny",
            "general.alignment": 16384,
            "llama.context_length": 128,
            "llama.embedding_length": 40,
            "llama.block_count": 2,
            "llama.feed_forward_length": 56,
            "llama.attention.head_count": 4,
            "llama.attention.head_count_kv": 2,
            "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5),
            "llama.rope.freq_base": 1e6,
            "llama.rope.dimension_count": 12,
            "llama.expert_count": 3,
            "llama.expert_used_count": 2,
            "llama.vocab_size": 50,
            "tokenizer.chat_template": "{{ '日本' }}",
            "cpumix.format_version": 1,
        }
        assert {key: file.metadata[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ([], None),
        ({"chat_template": "plain"}, "plain"),
        (
            {
                "chat_template": [
                    {"name": "tool", "template": "t"},
                    {"name": "default", "template": "d"},
                ]
            },
            "d",
        ),
        ({"chat_template": [{"name": "tool", "template": "t"}]}, None),
        ({"chat_template": None}, None),
    ],
)
def test_chat_template_comes_from_the_settings(settings: Any, expected: str | None) -> None:
    files = {"tokenizer_config.json": json.dumps(settings).encode()}
    metadata = build_metadata(CONFIG, "int8", files, "tiny")
    assert metadata.get("tokenizer.chat_template") == expected


@pytest.mark.parametrize(
    "files",
    [{"chat_template.jinja": b"\xff"}, {"tokenizer_config.json": b"{"}],
    ids=["text", "json"],
)
def test_unreadable_chat_template_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(ConvertError, match=r"chat template: expected UTF-8 and valid JSON, found"):
        build_metadata(CONFIG, "int8", files, "tiny")


# --- what is refused -------------------------------------------------------------------------


def test_missing_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone", "cannot read the model file: No such file or directory")


def test_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "expected a model file, found a folder. Convert a checkpoint folder with")


def test_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").touch()
    refused(tmp_path / "m", "expected a model file, found an empty one. The file is damaged")


def test_other_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused(
        tmp_path / "m", "not a model file: expected \"GGUF\" in the first 4 bytes, found b'vers'"
    )


def test_foreign_gguf_is_refused_as_such(tmp_path: Path) -> None:
    header = gguf.encode_header(
        {"general.architecture": "llama", "tokenizer.ggml.tokens": ["<s>", "</s>"]},
        [gguf.TensorInfo("token_embd.weight", (2, 256), 12, 0)],
    )
    (tmp_path / "m").write_bytes(header + bytes(1000))
    message = (
        r'a GGUF file written by another program \(general.architecture "llama", no '
        r"cpumix.format_version\). Convert the Hugging Face checkpoint with `cpumix convert`\."
    )
    refused(tmp_path / "m", message)


@pytest.mark.parametrize("version", [0, 2, "1"])
def test_other_version_is_refused(tmp_path: Path, version: object) -> None:
    path = write(tmp_path / "m", change=lambda m: m.update({"cpumix.format_version": version}))
    refused(path, f"expected model file version 1, found {version!r}. Update cpumix, or convert")


def with_(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata.update({key: value})


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda metadata: metadata.pop(key)


def config_with(**changes: object) -> Callable[[dict[str, Any]], None]:
    def change(metadata: dict[str, Any]) -> None:
        fields = json.loads(metadata["cpumix.config"])
        metadata["cpumix.config"] = json.dumps({**fields, **changes})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_("cpumix.precision", "int3"),
            r'cpumix.precision: expected one of bf16, .*found "int3"',
        ),
        (
            without("cpumix.precision"),
            r"cpumix.precision: expected a value of type str, found None",
        ),
        (
            with_("cpumix.precision", 4),
            r"cpumix.precision: expected a value of type str, found int",
        ),
        (with_("cpumix.config", "{"), r"cpumix.config: "),
        (config_with(unheard_of=1), r"cpumix.config: .*unheard_of"),
        (
            with_("cpumix.file.a", "text"),
            r"cpumix.file.a: expected a value of type ndarray, found str",
        ),
        (
            with_("cpumix.file.a", np.zeros(3)),
            r"cpumix.file.a: expected an array of uint8, found float64",
        ),
        (with_("general.alignment", 8192), r"general.alignment: expected 16384, found 8192"),
        (config_with(num_hidden_layers=10**9), r"expected 3000000000 experts in all layers, found"),
        (config_with(num_hidden_layers=1), r'tensor "blk.1.*": expected no such tensor, found one'),
        (config_with(hidden_size=48), r'"blk.0.attn_norm.weight": expected f32 of \(48,\) in'),
        (config_with(intermediate_size=10**60), r'tensor "blk.0.expert.0": expected q4 of'),
    ],
)
def test_wrong_metadata_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    refused(write(tmp_path / "m", change=change), message)


def test_missing_tensor_is_refused(tmp_path: Path) -> None:
    entries = [e for e in build_entries(CONFIG, "int4") if e.name != "blk.1.attn_q.weight"]
    path = write(tmp_path / "m", entries=entries)
    refused(
        path, 'tensor "blk.1.attn_q.weight": expected a tensor, found none. The file is damaged'
    )


def test_unknown_tensor_is_refused(tmp_path: Path) -> None:
    entries = [*build_entries(CONFIG, "int4"), TensorEntry("blk.0.bias", "f32", (4,), 16)]
    refused(write(tmp_path / "m", entries=entries), 'tensor "blk.0.bias": expected no such tensor')


def test_wrong_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m", entries=build_entries(CONFIG, "int8"))
    refused(path, r'tensor "blk.0.expert.0": expected q4 of \(3, 56, 40\) in 6336 bytes, found q8')


def test_wrong_shape_of_float_tensor_is_refused(tmp_path: Path) -> None:
    entries = [
        dataclasses.replace(e, shape=(40, 3)) if e.name == "blk.1.router.weight" else e
        for e in build_entries(CONFIG, "int4")
    ]
    refused(write(tmp_path / "m", entries=entries), r"expected f32 of \(3, 40\) .* of \(40, 3\)")


def rewrite(path: Path, edit: Callable[[dict[str, Any], list[gguf.TensorInfo]], None]) -> Path:
    """Change a file's header, and give it the checksum of its new bytes."""
    data = path.read_bytes()
    old = gguf.parse_header(io.BytesIO(data), len(data), "")
    metadata, tensors = {**old.metadata, layout.HEADER_CRC_KEY: 0}, list(old.tensors)
    edit(metadata, tensors)
    header = bytearray(gguf.encode_header(metadata, tensors))
    if next(iter(metadata)) == layout.HEADER_CRC_KEY:
        header[55:59] = layout.header_crc32(bytes(header)).to_bytes(4, "little")
    assert gguf.align(len(header), 16384) == old.data_start
    path.write_bytes(bytes(header).ljust(old.data_start, b"\0") + data[old.data_start :])
    return path


def test_rewritten_header_is_as_good_as_the_first(model: Path) -> None:
    before = model.read_bytes()
    assert rewrite(model, lambda metadata, tensors: None).read_bytes() == before


def test_formats_and_checksums_must_be_as_many_as_tensors(model: Path) -> None:
    rewrite(model, lambda metadata, _: metadata["cpumix.tensor.formats"].pop())
    refused(
        model, r"formats and cpumix.tensor.crc32: expected (\d+) elements each, found \d+ and \1"
    )


def test_checksums_of_another_type_are_refused(model: Path) -> None:
    rewrite(model, lambda metadata, _: metadata.update({"cpumix.tensor.crc32": b"1234"}))
    refused(model, r"cpumix.tensor.crc32: expected an array of uint32, found uint8")


def test_overlapping_tensors_are_refused(model: Path) -> None:
    def overlap(_: dict[str, Any], tensors: list[gguf.TensorInfo]) -> None:
        tensors[5] = dataclasses.replace(tensors[5], offset=tensors[4].offset)

    rewrite(model, overlap)
    refused(
        model, r'tensor "blk.0.attn_.*": expected an offset from \d+ bytes, found \d+ \(an overl'
    )


def test_tensor_beyond_the_end_is_refused(model: Path) -> None:
    def beyond(_: dict[str, Any], tensors: list[gguf.TensorInfo]) -> None:
        tensors[3] = dataclasses.replace(tensors[3], offset=2**62)

    rewrite(model, beyond)
    refused(model, r"file size: expected 4611686018427\d+ bytes, found \d+ bytes")


def test_header_checksum_must_come_first(model: Path) -> None:
    def move(metadata: dict[str, Any], _: list[gguf.TensorInfo]) -> None:
        metadata[layout.HEADER_CRC_KEY] = metadata.pop(layout.HEADER_CRC_KEY)

    rewrite(model, move)
    refused(model, r"header checksum: expected 00000000, found ")


@pytest.mark.parametrize("part", [0.0001, 0.01, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_file_is_refused(model: Path, part: float) -> None:
    size = model.stat().st_size
    os.truncate(model, int(size * part))
    refused(model, rf"expected .* found .*{int(size * part) if part > 0.05 else ''}.* damaged")


def test_longer_file_is_refused(model: Path) -> None:
    size = model.stat().st_size
    with open(model, "ab") as stream:
        stream.write(b"more")
    refused(model, f"file size: expected {size} bytes, found {size + 4} bytes. The file is damaged")


def test_every_flipped_bit_in_the_header_is_refused(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "m").read_bytes())
    end = gguf.parse_header(io.BytesIO(data), len(data), "").end
    (tmp_path / "m").write_bytes(data)
    with open(tmp_path / "m", "r+b", buffering=0) as stream:
        for at in range(0, end, 3):
            stream.seek(at)
            stream.write(bytes([data[at] ^ 1 << at % 8]))
            with pytest.raises(FormatError):
                ModelFile(tmp_path / "m")
            stream.seek(at)
            stream.write(data[at : at + 1])
    ModelFile(tmp_path / "m").close()


def test_verify_names_the_damaged_tensor(model: Path) -> None:
    with ModelFile(model) as file:
        offset = file.tensors["blk.1.expert.1"].offset
    with open(model, "r+b") as stream:
        stream.seek(offset + 100)
        stream.write(b"\xff")
    with ModelFile(model) as file:
        with pytest.raises(
            FormatError, match=r'checksum of "blk.1.expert.1": expected \w{8}, found'
        ):
            file.verify()


def test_verify_reports_progress(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_VERIFY_BYTES", 4096)
    with ModelFile(model) as file:
        total = sum(t.nbytes for t in file.tensors.values())
        seen: list[tuple[int, int]] = []
        file.verify(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (total, total)
    steps = np.diff([done for done, _ in seen])
    assert steps.min() > 0 and steps.max() == 4096


# --- the map's life --------------------------------------------------------------------------


def test_views_outlive_the_file(model: Path) -> None:
    file = ModelFile(model)
    view = file.data("output_norm.weight").view(np.float32)
    expected = view.copy()
    file.close()
    file.close()
    np.testing.assert_array_equal(view, expected)
    assert file.resident_bytes() is None
    with pytest.raises(ValueError, match=r"m.cpumix is closed"):
        file.data("output_norm.weight")


def test_map_is_released_on_close(model: Path) -> None:
    file = ModelFile(model)
    file.close()
    assert file._map.closed


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be replaced there")
def test_file_replaced_while_mapped_keeps_its_content(model: Path) -> None:
    with ModelFile(model) as old:
        expected = old.data("token_embd.weight").tobytes()
        write(model, "int8")
        assert old.data("token_embd.weight").tobytes() == expected
        old.verify()
        with ModelFile(model) as new:
            assert (old.precision, new.precision) == ("int4", "int8")


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no mincore")
def test_resident_bytes_counts_what_is_in_memory(model: Path) -> None:
    with ModelFile(model) as file:
        file.verify()  # reads everything
        resident = file.resident_bytes()
        assert resident is not None
        assert 0 < resident <= file.mapped_bytes
        assert resident % mmap.PAGESIZE == 0


def test_resident_bytes_is_unknown_elsewhere(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency.sys, "platform", "win32")
    with ModelFile(model) as file:
        assert file.resident_bytes() is None


@pytest.mark.skipif(sys.platform != "linux", reason="macOS says 0")
def test_resident_bytes_of_no_map_is_unknown() -> None:
    assert residency.resident_bytes(mmap.PAGESIZE, mmap.PAGESIZE) is None


def test_open_is_fast_for_a_large_model(tmp_path: Path) -> None:
    """Only the header counts: 483 tensors and a tokenizer of 2 MB; the bound is generous for CI."""
    config = dataclasses.replace(CONFIG, num_hidden_layers=32, num_local_experts=8)
    path = write(
        tmp_path / "m", change=with_("cpumix.file.tokenizer.json", bytes(2 << 20)), config=config
    )
    times = []
    for _ in range(3):
        start = time.perf_counter()
        ModelFile(path).close()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.2
