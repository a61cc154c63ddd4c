"""What is no model file, or a damaged one, and the sentence that says so."""

import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_files import CONFIG, with_, write

from cpumix.config import Role, TensorSpec
from cpumix.errors import FormatError
from cpumix.quant.precision import CODED
from cpumix.store import ModelFile, TensorEntry, build_entries, gguf, layout


def refused(path: Path, message: str) -> None:
    with pytest.raises(FormatError, match=message) as error:
        ModelFile(path)
    assert str(error.value).startswith(f'"{path}": ')


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "m.cpumix")


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
        r"cpumix.format_version\). Convert it with `cpumix convert`\."
    )
    refused(tmp_path / "m", message)


@pytest.mark.parametrize("version", [0, 2, "1"])
def test_other_version_is_refused(tmp_path: Path, version: object) -> None:
    path = write(tmp_path / "m", change=lambda m: m.update({"cpumix.format_version": version}))
    refused(path, f"expected model file version 1, found {version!r}. Update cpumix, or convert")


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
            with_("cpumix.precision", "int3\n"),
            r'cpumix.precision: expected a short name, found "int3',
        ),
        (
            without("cpumix.precision"),
            r"cpumix.precision: expected a value of type str, found None",
        ),
        (
            with_("cpumix.precision", 4),
            r"cpumix.precision: expected a value of type str, found int",
        ),
        (with_("cpumix.config", "{"), r"model config: expected JSON, found"),
        (config_with(unheard_of=1), r"model config: .*unheard_of"),
        (
            with_("cpumix.file.a", "text"),
            r"cpumix.file.a: expected a value of type ndarray, found str",
        ),
        (
            with_("cpumix.file.a", np.zeros(3)),
            r"cpumix.file.a: expected an array of uint8, found float64",
        ),
        (with_("general.alignment", 8192), r"general.alignment: expected 16384, found 8192"),
        (
            config_with(head_dim=0),
            r"the configuration inside cannot be used: .* head_dim: expected a positive",
        ),
        (config_with(num_hidden_layers=1000), r"expected 3000 experts in all layers, found"),
        (config_with(num_hidden_layers=1), r'tensor "blk.1.*": expected no such tensor, found one'),
        (config_with(hidden_size=48), r'"blk.0.attn_norm.weight": expected f32 of \(48,\) in'),
        (config_with(intermediate_size=2**30), r'tensor "blk.0.expert.0": expected q4s? of'),
    ],
)
def test_wrong_metadata_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    refused(write(tmp_path / "m", change=change), message)


def test_missing_tensor_is_refused(tmp_path: Path) -> None:
    entries = [e for e in build_entries(CONFIG, CODED) if e.name != "blk.1.attn_q.weight"]
    path = write(tmp_path / "m", entries=entries)
    refused(
        path, 'tensor "blk.1.attn_q.weight": expected a tensor, found none. The file is damaged'
    )


def test_unknown_tensor_is_refused(tmp_path: Path) -> None:
    entries = [
        *build_entries(CONFIG, CODED),
        TensorEntry(TensorSpec("blk.0.bias", (4,), Role.OUTPUT_NORM), "f32", 16),
    ]
    refused(write(tmp_path / "m", entries=entries), 'tensor "blk.0.bias": expected no such tensor')


def test_experts_of_a_layer_in_two_formats_are_refused(tmp_path: Path) -> None:
    other = {e.name: e for e in build_entries(CONFIG, "int8")}
    entries = [
        other[e.name] if e.name == "blk.0.expert.1" else e for e in build_entries(CONFIG, CODED)
    ]
    path = write(tmp_path / "m", entries=entries)
    refused(path, r'tensor "blk.0.expert.1": expected q4 of \(3, 56, 40\) in 6336 bytes, found q8')


@pytest.mark.parametrize(
    ("name", "kind"),
    [("blk.0.expert.0", "q5"), ("blk.0.expert.0", "q4+q5"), ("blk.1.attn_q.weight", "q4+q8")],
)
def test_a_format_of_the_future_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    entries = [
        replace(e, format=kind) if e.name == name else e for e in build_entries(CONFIG, CODED)
    ]
    path = write(tmp_path / "m", entries=entries)
    refused(
        path,
        rf'tensor "{name}": expected one of the formats bf16, .*, found "{re.escape(kind)}". '
        "Install a newer version with `pip install --upgrade cpumix`",
    )


def test_wrong_shape_of_float_tensor_is_refused(tmp_path: Path) -> None:
    entries = [
        replace(e, spec=e.spec._replace(shape=(40, 3))) if e.name == "blk.1.router.weight" else e
        for e in build_entries(CONFIG, CODED)
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
        tensors[5] = replace(tensors[5], offset=tensors[4].offset)

    rewrite(model, overlap)
    refused(
        model, r'tensor "blk.0.attn_.*": expected an offset from \d+ bytes, found \d+ \(an overl'
    )


def test_tensor_beyond_the_end_is_refused(model: Path) -> None:
    def beyond(_: dict[str, Any], tensors: list[gguf.TensorInfo]) -> None:
        tensors[3] = replace(tensors[3], offset=2**62)

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
