"""Writes a byte-level BPE vocabulary of a GGUF file as a `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cpumix.errors import ConvertError, quoted
from cpumix.store.strings import Strings

from .pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from .vocabulary import CONTROL, PREFIX, USER_DEFINED, GgufVocabulary

_WHOLE = "tokenizer.huggingface.json"


def write_json(
    vocabulary: GgufVocabulary, metadata: Mapping[str, Any], where: str
) -> tuple[bytes, bool]:
    """Return the bytes of a `tokenizer.json`, and whether such texts start with BOS.

    Raises ConvertError without merges, and for a way of splitting text unknown to cpumix.
    """
    pre = _find_pre_tokenizer(vocabulary, metadata, where)
    whole = metadata.get(_WHOLE)
    if isinstance(whole, str) and whole:
        return whole.encode(), pre.adds_bos
    merges = metadata.get(PREFIX + "merges")
    if not isinstance(merges, list | Strings):
        raise ConvertError(
            f'"{where}": {PREFIX}merges: expected the merges of a byte-level BPE, found none. '
            "Convert the model's Hugging Face checkpoint."
        )
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in pre.patterns
    ]
    byte_level = {"add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    text = json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": _added_tokens(vocabulary),
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [*splits, {"type": "ByteLevel", **byte_level}],
            },
            "post_processor": None,
            "decoder": {"type": "ByteLevel", **byte_level},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": pre.ignore_merges,
                "vocab": {text: token for token, text in enumerate(vocabulary.tokens)},
                "merges": list(merges),
            },
        },
        ensure_ascii=False,
    )
    return text.encode(), pre.adds_bos


def _find_pre_tokenizer(
    vocabulary: GgufVocabulary, metadata: Mapping[str, Any], where: str
) -> PreTokenizer:
    name = str(metadata.get(PREFIX + "pre", "")) or "default"
    if name == "default" and "<|begin_of_text|>" in vocabulary.tokens:
        name = "llama-bpe"  # files of before May 2024, whose makers did not know of such rules
    found = PRE_TOKENIZERS.get(name)
    if found is None:
        raise ConvertError(
            f'"{where}": {PREFIX}pre: how this tokenizer splits text is unknown to cpumix, found '
            f"{quoted(name)}. Convert the model's Hugging Face checkpoint."
        )
    return found


def _added_tokens(vocabulary: GgufVocabulary) -> list[dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": token, "content": vocabulary.tokens[token], **plain, "special": kind == CONTROL}
        for token, kind in enumerate(vocabulary.types.tolist())
        if kind in (CONTROL, USER_DEFINED)
    ]
