"""Mistral's own tokenizer files: which conversations they stand for, and tekken.json.

`tokenizer.model.v3` is a sentencepiece model whose name says how its models write conversations.
`tekken.json` says so inside; it is a byte-level vocabulary in the order in which its tokens are
merged, read here by turning it into a tokenizer.json.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from cpumix.errors import ConfigError, escaped

from .byte_level import CHARACTERS

VERSIONS = (1, 2, 3, 7, 11, 13)  # those that differ in how they write conversations
TEKKEN = "tekken.json"
MODEL = re.compile(r"tokenizer\.model\.v(\d{1,3})(?:m\d+)?")  # m1: with images
_VERSION = re.compile(r"v(\d{1,3})")
_LARGEST = 1 << 22  # ids
# What files up to version 7 leave out.
_CONTROLS = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] "
    "[/TOOL_RESULTS] [TOOL_CALLS] [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] "
    "[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
).split()


@cache
def chat_templates() -> dict[str, str]:
    """Return the chat templates of all versions, by names such as "mistral-v3"."""
    source = (Path(__file__).parent / "templates" / "mistral.jinja").read_text(encoding="utf-8")
    return {f"mistral-v{n}": f"{{%- set version = {n} %}}\n{source}" for n in VERSIONS}


def find_model(names: Iterable[str]) -> str | None:
    """Return the name of the newest sentencepiece model whose name has a version, or None."""
    found = {int(match[1]): name for name in names if (match := MODEL.fullmatch(name))}
    return found[max(found)] if found else None


def template_of(name: str) -> str | None:
    """Return the chat template that a sentencepiece model's name stands for."""
    match = MODEL.fullmatch(name)
    return _template(int(match[1])) if match else None


def template_of_tekken(source: bytes) -> str | None:
    """Return the chat template that a tekken.json names; None for a file that is none."""
    try:
        version = _VERSION.fullmatch(_read(source)["config"]["version"])
    except (ConfigError, KeyError, TypeError):
        return None
    return _template(int(version[1])) if version else None


def _template(version: int) -> str | None:
    """Return the template of a version: its own, or that of the one before it."""
    known = max((n for n in VERSIONS if n <= version), default=None)
    return None if known is None else chat_templates()[f"mistral-v{known}"]


def tekken_to_json(source: bytes) -> bytes:
    """Return a tekken.json as a tokenizer.json with the same ids.

    Raises ConfigError for what is not a tekken.json.
    """
    try:
        data = _read(source)
        config = data["config"]
        size, special = int(config["default_vocab_size"]), int(config["default_num_special_tokens"])
        if not 0 < special < size <= _LARGEST:
            raise ValueError(f"{size} tokens, {special} of them special")
        controls = _controls(data.get("special_tokens"), special)
        tokens = [
            base64.b64decode(entry["token_bytes"]) for entry in data["vocab"][: size - special]
        ]
        if tokens[:256] != [bytes([byte]) for byte in range(256)] or len(tokens) < size - special:
            raise ValueError(f"{len(tokens)} tokens, which do not begin with all bytes")
        pattern = str(config["pattern"])
    except (KeyError, TypeError, ValueError, binascii.Error) as e:
        raise ConfigError(
            f"tekken.json: expected Mistral's vocabulary, found something else ({escaped(e)}). "
            "Copy the file from the checkpoint again."
        ) from e
    spelled = ["".join(CHARACTERS[byte] for byte in token) for token in tokens]
    vocabulary = {token: special + rank for rank, token in enumerate(spelled)}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [_added(number, text) for number, text in enumerate(controls)],
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": pattern},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    {
                        "type": "ByteLevel",
                        "add_prefix_space": False,
                        "trim_offsets": False,
                        "use_regex": False,
                    },
                ],
            },
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "<s>", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                ],
                "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
                "special_tokens": {
                    "<s>": {"id": "<s>", "ids": [controls.index("<s>")], "tokens": ["<s>"]}
                },
            },
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": False,
                "use_regex": False,
            },
            "model": {
                "type": "BPE",
                "ignore_merges": True,
                "vocab": dict(zip(controls, range(special), strict=True)) | vocabulary,
                "merges": _merges(spelled),
            },
        },
        ensure_ascii=False,
    ).encode()


def _read(source: bytes) -> dict[str, Any]:
    try:
        data = json.loads(source)
    except (ValueError, RecursionError) as e:
        raise ConfigError(
            f"tekken.json: expected valid JSON, found {escaped(e)}. "
            "Copy the file from the checkpoint again."
        ) from e
    return data if isinstance(data, dict) else {}


def _controls(declared: Any, count: int) -> list[str]:
    """Return the control tokens by id, with made-up names for those that have none."""
    named = {entry["rank"]: str(entry["token_str"]) for entry in declared or ()}
    named = named or dict(enumerate(_CONTROLS))
    controls = [named.get(number, f"<SPECIAL_{number}>") for number in range(count)]
    if len(set(controls)) < count or "<s>" not in controls or "</s>" not in controls:
        raise ValueError("no <s>, no </s>, or special tokens that come twice")
    return controls


def _added(number: int, text: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": text, "special": True, **flags}


def _merges(tokens: list[str]) -> list[tuple[str, str]]:
    """Return every pair of tokens that makes a token, in the order in which they are merged."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for token in tokens[256:]:
        pairs = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges
