"""Tokenizers in exported metadata: read back, they give the ids, texts and marks that they gave."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from gguf_files import TOKENIZERS

from cpumix.checkpoint.sources.gguf.pre_tokenizers import PRE_TOKENIZERS
from cpumix.checkpoint.sources.gguf.tokenizer import tokenizer_files
from cpumix.errors import ConvertError
from cpumix.exporter.vocabulary import tokenizer_metadata
from cpumix.tokenizer import Tokenizer

TEXTS = json.loads((TOKENIZERS / "goldens.json").read_text(encoding="utf-8"))["texts"]
CHATML = (TOKENIZERS / "templates/chatml.jinja").read_text()
ADDED = {
    "added_tokens_decoder": {
        "600": {"content": "<|im_end|>", "special": True},
        "601": {"content": "<|im_start|>", "special": False},
        "603": {"content": "<think>", "special": False},
    },
    "chat_template": CHATML,
    "eos_token": "<|im_end|>",
}


def files_of(name: str, **settings: Any) -> dict[str, bytes]:
    kind = "tokenizer." + name.split(".")[1]
    config = json.dumps(settings).encode()
    return {kind: (TOKENIZERS / name).read_bytes(), "tokenizer_config.json": config}


def round_trip(files: dict[str, bytes], size: int = 620) -> tuple[Tokenizer, Tokenizer]:
    """Return a tokenizer, and what becomes of it in a GGUF file."""
    again = tokenizer_files(tokenizer_metadata(files, size), "m.gguf")
    return Tokenizer.from_files(files), Tokenizer.from_files(again)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("small.model", 600),
        ("mixtral.model", 32000),
        ("byte-level.json", 607),
        ("small.json", 620),
        ("small-first.json", 620),
    ],
)
def test_ids_and_texts_come_back(name: str, size: int) -> None:
    ours, theirs = round_trip(files_of(name), size)
    for text in TEXTS:
        if name == "small-first.json" and text[:1] in (" ", "\u2581"):
            continue  # it adds no space before one; GGUF cannot say that, and llama.cpp adds it
        ids = ours.encode(text)
        assert theirs.encode(text) == ids, text
        assert theirs.decode(ids) == ours.decode(ids), text
    assert theirs.vocab_size == size


def test_added_tokens_and_the_template_come_back() -> None:
    ours, theirs = round_trip(files_of("small.model", **ADDED))
    chat = [{"role": "user", "content": "so <think> and <|im_end|>"}]
    assert theirs.encode_chat(chat) == ours.encode_chat(chat)
    assert theirs.eos_ids[0] == ours.eos_ids[0] == 600
    assert theirs.decode([603, 601]) == "<think>"


def test_wishes_for_sampling_come_back() -> None:
    wishes = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": 2, "min_p": None}
    files = files_of("small.model") | {"generation_config.json": json.dumps(wishes).encode()}
    metadata = tokenizer_metadata(files, 600)
    assert metadata["general.sampling.temp"] == 0.6
    again = json.loads(tokenizer_files(metadata, "m")["generation_config.json"])
    assert again == {"eos_token_id": [2], "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    metadata["general.sampling.temp"] = float("nan")
    assert "temperature" not in json.loads(tokenizer_files(metadata, "m")["generation_config.json"])
    for damaged in (b"{", b"[]"):
        metadata = tokenizer_metadata(files | {"generation_config.json": damaged}, 600)
        assert "general.sampling.temp" not in metadata


def test_ids_that_the_embedding_has_no_rows_for_are_left_out() -> None:
    metadata = tokenizer_metadata(files_of("small.model", **ADDED), 601)
    assert metadata["tokenizer.ggml.tokens"][-1] == "<|im_end|>"
    assert len(metadata["tokenizer.ggml.token_type"]) == 601


def test_rows_without_a_token_are_padded() -> None:
    metadata = tokenizer_metadata(files_of("small.model"), 602)
    assert metadata["tokenizer.ggml.tokens"][-2:] == ["[PAD600]", "[PAD601]"]
    assert metadata["tokenizer.ggml.token_type"][-2:].tolist() == [5, 5]


def edited(name: str, **changes: Any) -> dict[str, bytes]:
    files = files_of(name)
    whole = json.loads(files["tokenizer.json"])
    files["tokenizer.json"] = json.dumps(whole | changes).encode()
    return files


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        ({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}, "gpt-2"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Digits", "individual_digits": True},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
                ],
            },
            "smollm",
        ),
    ],
)
def test_ways_of_splitting_get_their_names(pre_tokenizer: dict[str, Any], name: str) -> None:
    metadata = tokenizer_metadata(edited("byte-level.json", pre_tokenizer=pre_tokenizer), 607)
    assert metadata["tokenizer.ggml.pre"] == name
    assert tokenizer_metadata(files_of("byte-level.json"), 607)["tokenizer.ggml.pre"] == "llama-bpe"


@pytest.mark.parametrize("name", sorted(PRE_TOKENIZERS.keys() - {"default"}))
def test_each_name_leads_back_to_its_rule(name: str) -> None:
    rule = PRE_TOKENIZERS[name]
    splits = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in rule.patterns
    ]
    end = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    whole = json.loads((TOKENIZERS / "byte-level.json").read_text(encoding="utf-8"))
    model = whole["model"] | {"ignore_merges": rule.ignore_merges}
    pre = {"type": "Sequence", "pretokenizers": [*splits, end]}
    found = tokenizer_metadata(edited("byte-level.json", pre_tokenizer=pre, model=model), 607)
    assert PRE_TOKENIZERS[found["tokenizer.ggml.pre"]][:2] == rule[:2]


def test_splitting_without_a_name_is_refused() -> None:
    pre = {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": False}
    with pytest.raises(ConvertError, match=re.escape("splits text, found \"['x+']\"")):
        tokenizer_metadata(edited("byte-level.json", pre_tokenizer=pre), 607)


def test_vocabulary_without_merges_is_refused() -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"}
    with pytest.raises(ConvertError, match=r'GGUF has byte-level BPE .* found a model "WordLevel"'):
        tokenizer_metadata(edited("byte-level.json", model=model, added_tokens=[]), 2)
