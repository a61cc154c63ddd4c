"""Reads the tokens of `tokenizer.model` and `tokenizer.json`, and what GGUF says beside them."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cpumix.checkpoint.sources.gguf.pre_tokenizers import PRE_TOKENIZERS
from cpumix.checkpoint.sources.gguf.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from cpumix.errors import ConvertError, quoted

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_GPT2 = PRE_TOKENIZERS["gpt-2"].patterns
_DIGIT = PRE_TOKENIZERS["smollm"].patterns[0]


class Tokens(NamedTuple):
    """Texts, types and scores by id, and the keys that go with this kind of tokenizer."""

    texts: list[str]
    types: list[int]
    scores: list[float]
    keys: dict[str, Any]


def read_tokenizer_model(model: bytes) -> Tokens:
    """Read a protobuf of sentencepiece that its library has accepted already."""
    texts, types, scores = [], [], []
    normalizer: dict[int, Any] = {}
    for field, value in _fields(model):
        if field == 1:
            piece = dict(_fields(value))
            texts.append(piece[1].decode())
            scores.append(struct.unpack("<f", piece.get(2, bytes(4)))[0])
            types.append(piece.get(3, NORMAL))
        elif field == 3:
            normalizer |= dict(_fields(value))  # messages merge when concatenated
    keys = {
        "model": "llama",
        "pre": "default",
        "add_space_prefix": bool(normalizer.get(3, 1)),
        "remove_extra_whitespaces": bool(normalizer.get(4, 1)),
    }
    return Tokens(texts, types, scores, keys)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the numbers and values of a protobuf's fields: int, or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        size = {1: 8, 5: 4}.get(tag & 7)
        if tag & 7 == 0:
            yield tag >> 3, varint()
            continue
        length = varint() if size is None else size
        yield tag >> 3, message[at : at + length]
        at += length


def read_tokenizer_json(source: bytes) -> Tokens:
    """Read what the tokenizers library has accepted already.

    Raises ConvertError for kinds that llama.cpp has no name for.
    """
    whole = json.loads(source)
    model = whole["model"]
    if "merges" not in model:
        raise ConvertError(
            "tokenizer.json: GGUF has byte-level BPE and sentencepiece's, found a model "
            f"{quoted(model.get('type'))} without merges. Export a model with another tokenizer."
        )
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    by_id = {token: text for text, token in model["vocab"].items()}
    types = dict.fromkeys(by_id, NORMAL)
    for entry in whole.get("added_tokens") or ():
        by_id[entry["id"]] = entry["content"]
        types[entry["id"]] = CONTROL if entry["special"] else USER_DEFINED
    ids = range(max(by_id) + 1)
    texts = [by_id.get(token, f"[PAD{token}]") for token in ids]
    kinds = [types.get(token, UNUSED) for token in ids]
    if model.get("byte_fallback"):
        return _like_sentencepiece(texts, kinds, merges, whole)
    keys = {"model": "gpt2", "pre": _name_of(whole), "merges": merges}
    return Tokens(texts, kinds, [0.0] * len(texts), keys)


def _like_sentencepiece(
    texts: list[str], types: list[int], merges: list[str], whole: Mapping[str, Any]
) -> Tokens:
    """Return the tokens with scores by which the pairs merge in the order of the merges."""
    rank: dict[str, int] = {}
    for number, pair in enumerate(merges):
        rank.setdefault(pair.replace(" ", ""), number)
    unknown = whole["model"].get("unk_token")
    for token, text in enumerate(texts):
        if _BYTE_TOKEN.fullmatch(text):
            types[token] = BYTE
        elif text == unknown:
            types[token] = UNKNOWN
    parts = json.dumps([whole.get("normalizer"), whole.get("pre_tokenizer")])
    prefix = '"Prepend"' in parts or bool(re.search('"prepend_scheme": "(first|always)"', parts))
    keys = {"model": "llama", "pre": "default", "add_space_prefix": prefix}
    return Tokens(texts, types, [-float(rank.get(t, len(merges))) for t in texts], keys)


def _name_of(whole: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for how a tokenizer splits text."""
    found = whole.get("pre_tokenizer") or {}
    patterns: list[str] = []
    for part in found.get("pretokenizers", [found]):
        if part.get("type") == "Digits" and part.get("individual_digits"):
            patterns.append(_DIGIT)
        elif part.get("type") == "ByteLevel":
            patterns += _GPT2 if part.get("use_regex", True) else ()
        else:
            patterns.append(str((part.get("pattern") or {}).get("Regex", part.get("type"))))
    ignore = bool(whole["model"].get("ignore_merges"))
    for name, rule in PRE_TOKENIZERS.items():
        if rule.patterns == tuple(patterns) and rule.ignore_merges == ignore:
            return name
    for name, rule in PRE_TOKENIZERS.items():
        if rule.patterns == tuple(patterns):
            return name
    raise ConvertError(
        "tokenizer.json: llama.cpp has no name for how this tokenizer splits text, found "
        f"{quoted(patterns)}. Convert the model's Hugging Face checkpoint with llama.cpp."
    )
