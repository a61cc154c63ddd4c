"""The tokenizer in a GGUF file's metadata, written as the files that a checkpoint's folder has.

`tokenizer.ggml.model` is "llama" for sentencepiece's vocabularies (a `tokenizer.model` comes of it)
or "gpt2" for byte-level BPE (a `tokenizer.json`). Chat templates, special tokens and what ends a
text go to `tokenizer_config.json` and `generation_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from cpumix.errors import ConvertError, quoted

from ...late_files import LateFile, LateFiles
from . import byte_level, sentencepiece
from .vocabulary import PREFIX, read_vocabulary

_TEMPLATE = "tokenizer.chat_template"
_NAMED_IDS = {  # the key in GGUF, and the name in tokenizer_config.json
    "bos_token_id": "bos_token",
    "eos_token_id": "eos_token",
    "unknown_token_id": "unk_token",
    "padding_token_id": "pad_token",
}
_END_IDS = ("eos_token_id", "eot_token_id", "eom_token_id")
SAMPLING = {  # how the model wants to be sampled: the key in GGUF, the name in Hugging Face's file
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
}
# Tokens that end an answer whatever the metadata say; llama.cpp stops at them too.
_ENDS = frozenset(
    "<|eot_id|> <|eom_id|> <|im_end|> <|end|> <|endoftext|> <|end_of_text|> <end_of_turn> "
    "<EOT> <\uff5cend\u2581of\u2581sentence\uff5c>".split()
)


def tokenizer_files(metadata: Mapping[str, Any], where: str) -> LateFiles:
    """Return the tokenizer's files by name; `where` names the GGUF file in errors.

    Raises ConvertError for a missing or damaged tokenizer, and for kinds unknown to cpumix.
    """
    kind = str(metadata.get(PREFIX + "model"))
    vocabulary = read_vocabulary(metadata, where)
    settings: dict[str, Any] = {
        name: vocabulary.tokens[vocabulary.ids[key]]
        for key, name in _NAMED_IDS.items()
        if key in vocabulary.ids
    }
    files: dict[str, bytes | LateFile] = {}
    if kind == "llama":
        files["tokenizer.model"] = sentencepiece.write_model(vocabulary, where)
        settings["added_tokens_decoder"] = sentencepiece.added_tokens(vocabulary)
        adds_bos = True
    elif kind == "gpt2":
        files["tokenizer.json"], adds_bos = byte_level.write_json(vocabulary, metadata, where)
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
    return LateFiles(files)


def describe_tokenizer(metadata: Mapping[str, Any]) -> str:
    """Say in a few words what a sound tokenizer is."""
    kind, rules = metadata[PREFIX + "model"], metadata.get(PREFIX + "pre")
    name = "sentencepiece" if kind == "llama" else f"byte-level BPE ({rules or 'no rules named'})"
    return f"{name}, {len(metadata[PREFIX + 'tokens']):,} tokens"


def _sampling(metadata: Mapping[str, Any]) -> dict[str, float]:
    values = {name: metadata.get(key) for key, name in SAMPLING.items()}
    # They are float32: seven digits are what was meant.
    return {
        name: value if isinstance(value, int) else float(f"{value:.7g}")
        for name, value in values.items()
        if isinstance(value, int | float) and isfinite(value)
    }


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
