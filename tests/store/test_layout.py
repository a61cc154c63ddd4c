"""The tensors and metadata that a model file has."""

import json
from pathlib import Path
from typing import Any

import pytest
from model_files import CONFIG, write

from cpumix.config import Role, TensorSpec
from cpumix.store import ModelFile, TensorEntry, build_entries, build_metadata


def test_entries_are_the_dense_part_then_the_experts() -> None:
    entries = build_entries(CONFIG, "int4")
    names = [e.name for e in entries]
    assert names[0] == "token_embd.weight"
    assert names[-8:-6] == ["output_norm.weight", "output.weight"]
    assert names[-6:] == [f"blk.{layer}.expert.{e}" for layer in range(2) for e in range(3)]
    by_name = {e.name: e for e in entries}
    # w1 and w3 are 56 x 40: 4 x 2 tiles; w2 is 40 x 56: 3 x 2 tiles
    expert = TensorSpec.of(Role.EXPERT, (3, 56, 40), 1, 2)
    assert by_name["blk.1.expert.2"] == TensorEntry(expert, "q4s", 22 * 272 + 11 * 64)
    output = TensorSpec.of(Role.OUTPUT, (50, 40))
    assert by_name["output.weight"] == TensorEntry(output, "q6", 8 * 416)
    assert by_name["blk.0.router.weight"].format == "f32"
    norm = TensorSpec.of(Role.OUTPUT_NORM, (40,))
    assert by_name["output_norm.weight"] == TensorEntry(norm, "f32", 160)


def test_metadata_has_the_keys_of_gguf(tmp_path: Path) -> None:
    with ModelFile(write(tmp_path / "m")) as file:
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
        ({"chat_template": [{"name": [], "template": "t"}, 7]}, None),
        ({"chat_template": {"default": "d", "tool": "t"}}, "d"),
        ({"chat_template": "half \ud800"}, "half ?"),
        ({"chat_template": None}, None),
    ],
)
def test_chat_template_comes_from_the_settings(settings: Any, expected: str | None) -> None:
    files = {"tokenizer_config.json": json.dumps(settings).encode()}
    metadata = build_metadata(CONFIG, "int8", files, "tiny")
    assert metadata.get("tokenizer.chat_template") == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.jinja": b"a\xff"}, "a\ufffd"),
        ({"tokenizer_config.json": b"{"}, None),
        ({"tokenizer_config.json": b"[" * 10**5}, None),
    ],
    ids=["text", "json", "deep"],
)
def test_damaged_chat_template_is_no_reason_to_stop(
    files: dict[str, bytes], expected: str | None
) -> None:
    metadata = build_metadata(CONFIG, "int8", files, "tiny")
    assert metadata.get("tokenizer.chat_template") == expected
