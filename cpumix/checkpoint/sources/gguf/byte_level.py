"""Writes a byte-level BPE vocabulary of a GGUF file as a `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cpumix.errors import ConvertError, quoted
from cpumix.store.strings import Strings

from ...late_files import LateFile, solid_bytes
from .pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from .vocabulary import CONTROL, PREFIX, USER_DEFINED, GgufVocabulary

_WHOLE = "tokenizer.huggingface.json"
_POWERS = tuple(10**digits for digits in range(1, 10))  # from each on, numbers have a digit more


def write_json(
    vocabulary: GgufVocabulary, metadata: Mapping[str, Any], where: str
) -> tuple[bytes | LateFile, bool]:
    """Return a `tokenizer.json`, and whether such texts start with BOS.

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

    def write() -> bytes:
        tokens = {text: token for token, text in enumerate(vocabulary.tokens)}
        return _encode(vocabulary, pre, tokens, list(merges))

    def count_solid() -> int:
        n, tokens = len(vocabulary.tokens), "".join(vocabulary.tokens).encode()
        pairs = merges.content() if isinstance(merges, Strings) else "".join(merges).encode()
        digits: int = sum(max(n - least, 0) for least in (0, *_POWERS))
        return (
            solid_bytes(_encode(vocabulary, pre, {}, []))
            + _count_solid_in_strings(tokens, n)
            + digits
            + n  # colons
            + _count_solid_in_strings(pairs, len(merges))
        )

    return LateFile(write, count_solid), pre.adds_bos


def _encode(
    vocabulary: GgufVocabulary, pre: PreTokenizer, tokens: dict[str, int], merges: list[str]
) -> bytes:
    """Return a `tokenizer.json` with these tokens and merges."""
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
                "vocab": tokens,
                "merges": merges,
            },
        },
        ensure_ascii=False,
    )
    return text.encode()


def _count_solid_in_strings(content: bytes, n: int) -> int:
    """Return what `n` strings that have these bytes together take in JSON, blanks not counted."""
    widths = np.ones(256, np.uint8)
    widths[:128] = [len(json.dumps(chr(code), ensure_ascii=False)) - 2 for code in range(128)]
    widths[ord(" ")] = 0
    quotes_and_commas = max(3 * n - 1, 0)
    return int(widths[np.frombuffer(content, np.uint8)].sum()) + quotes_and_commas


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
    (added,) = np.isin(vocabulary.types, (CONTROL, USER_DEFINED)).nonzero()
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": token, "content": vocabulary.tokens[token], **plain, "special": kind == CONTROL}
        for token, kind in zip(added.tolist(), vocabulary.types[added].tolist(), strict=True)
    ]
