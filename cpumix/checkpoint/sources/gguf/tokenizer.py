"""The tokenizer in a GGUF file's metadata, written as the files that a checkpoint's folder has.

`tokenizer.ggml.model` is "llama" for sentencepiece's vocabularies (a `tokenizer.model` comes of it)
or "gpt2" for byte-level BPE (a `tokenizer.json`). Chat templates, special tokens and what ends a
text go to `tokenizer_config.json` and `generation_config.json`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.errors import ConvertError, quoted

from . import byte_level, sentencepiece

PREFIX = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(
    1, 7
)  # token types, as sentencepiece's
_TEMPLATE = "tokenizer.chat_template"
_NAMED_IDS = {  # the key in GGUF, and the name in tokenizer_config.json
    "bos_token_id": "bos_token",
    "eos_token_id": "eos_token",
    "unknown_token_id": "unk_token",
    "padding_token_id": "pad_token",
}
_FLAGS = ("add_bos_token", "add_space_prefix", "remove_extra_whitespaces")
_END_IDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_SAMPLING = {  # how the model wants to be sampled: the key in GGUF, the name in Hugging Face's file
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
}
# Tokens that end an answer whatever the metadata say; llama.cpp stops at them too.
_ENDS = frozenset(
    "<|eot_id|> <|eom_id|> <|im_end|> <|end|> <|endoftext|> <|end_of_text|> <end_of_turn> "
    "<EOT> <\uff5cend\u2581of\u2581sentence\uff5c>".split()
)


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a GGUF file, checked; a type and a score belong to each."""

    tokens: list[str]
    types: NDArray[np.int32]
    scores: NDArray[np.float32] | None
    ids: Mapping[str, int]
    """The special ids that are given, by key: "bos_token_id" and so on."""
    flags: Mapping[str, bool]
    """What is said of BOS and spaces, by key: "add_space_prefix" and so on."""


def tokenizer_files(metadata: Mapping[str, Any], where: str) -> dict[str, bytes]:
    """Return the tokenizer's files by name; `where` names the GGUF file in errors.

    Raises ConvertError for a missing or damaged tokenizer, and for kinds unknown to cpumix.
    """
    kind = str(metadata.get(PREFIX + "model"))
    vocabulary = _read_vocabulary(metadata, where)
    settings: dict[str, Any] = {
        name: vocabulary.tokens[vocabulary.ids[key]]
        for key, name in _NAMED_IDS.items()
        if key in vocabulary.ids
    }
    if kind == "llama":
        files = {"tokenizer.model": sentencepiece.write_model(vocabulary, where)}
        settings["added_tokens_decoder"] = sentencepiece.added_tokens(vocabulary)
        adds_bos = True
    elif kind == "gpt2":
        text, adds_bos = byte_level.write_json(vocabulary, metadata, where)
        files = {"tokenizer.json": text}
    else:
        raise ConvertError(
            f'"{where}": {PREFIX}model: expected "llama" or "gpt2", found {quoted(kind)}. '
            "Convert the model's Hugging Face checkpoint."
        )
    settings["add_bos_token"] = vocabulary.flags.get("add_bos_token", adds_bos)
    settings["chat_template"] = _templates(metadata)
    ends = [vocabulary.ids[key] for key in _END_IDS if key in vocabulary.ids]
    ends += [token for token, text in enumerate(vocabulary.tokens) if text in _ENDS]
    files["tokenizer_config.json"] = json.dumps(settings).encode()
    generation = {"eos_token_id": list(dict.fromkeys(ends)), **_sampling(metadata)}
    files["generation_config.json"] = json.dumps(generation).encode()
    return files


def _sampling(metadata: Mapping[str, Any]) -> dict[str, float]:
    values = {name: metadata.get(f"general.sampling.{key}") for key, name in _SAMPLING.items()}
    # They are float32: seven digits are what was meant.
    return {
        name: value if isinstance(value, int) else float(f"{value:.7g}")
        for name, value in values.items()
        if isinstance(value, int | float)
    }


def _read_vocabulary(metadata: Mapping[str, Any], where: str) -> Vocabulary:
    def refuse(key: str, expected: str, found: object) -> ConvertError:
        return ConvertError(
            f'"{where}": {PREFIX}{key}: the tokenizer needs {expected}, found {found}. '
            "Download the file again."
        )

    def numbers(key: str, n: int, kinds: str) -> NDArray[Any] | None:
        found = metadata.get(PREFIX + key)
        if found is None:
            return None
        if not isinstance(found, np.ndarray) or len(found) < n or found.dtype.kind not in kinds:
            raise refuse(key, f"a number for each of {n} tokens", quoted(type(found).__name__))
        return found[:n]

    tokens = metadata.get(PREFIX + "tokens")
    if not isinstance(tokens, list) or not tokens:
        raise refuse("tokens", "a list of tokens", "none")
    tokens = [text or f"[EMPTY_{token}]" for token, text in enumerate(tokens)]
    if len(set(tokens)) < len(tokens):
        twice = Counter(tokens).most_common(1)[0][0]
        raise refuse("tokens", "each token once", f"{quoted(twice)} twice")
    types, scores = numbers("token_type", len(tokens), "iu"), numbers("scores", len(tokens), "iuf")
    flags = {key: metadata[PREFIX + key] for key in _FLAGS if PREFIX + key in metadata}
    for key, found in flags.items():
        if not isinstance(found, bool):
            raise refuse(key, "true or false", quoted(found))
    ids: dict[str, int] = {}
    for key in (*_NAMED_IDS, *_END_IDS):
        found = metadata.get(PREFIX + key)
        if type(found) is int and 0 <= found < len(tokens):  # llama.cpp ignores others too
            ids[key] = found
    return Vocabulary(
        tokens,
        np.ones(len(tokens), np.int32) if types is None else types.astype(np.int32),
        None if scores is None else scores.astype(np.float32),
        ids,
        flags,
    )


def _templates(metadata: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    """Return the chat template, or several with their names."""
    named = {
        key.removeprefix(_TEMPLATE + "."): text
        for key, text in metadata.items()
        if key.startswith(_TEMPLATE + ".") and isinstance(text, str)
    }
    default = metadata.get(_TEMPLATE)
    if not named:
        return default if isinstance(default, str) else None
    if isinstance(default, str):
        named["default"] = default
    return [{"name": name, "template": text} for name, text in sorted(named.items())]
