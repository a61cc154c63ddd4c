"""The tokenizer of a model file in the metadata of a GGUF file; `checkpoint` reads them back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cpumix.checkpoint.sources.gguf.tokenizer import SAMPLING
from cpumix.checkpoint.sources.gguf.vocabulary import (
    CONTROL,
    NORMAL,
    PREFIX,
    UNUSED,
    USER_DEFINED,
)
from cpumix.tokenizer import Tokenizer
from cpumix.tokenizer.settings import TokenizerSettings

from .tokens import read_tokenizer_json, read_tokenizer_model


def tokenizer_metadata(files: Mapping[str, bytes], vocab_size: int) -> dict[str, Any]:
    """Return a tokenizer's keys, padded or cut to the rows of the embedding.

    Raises ConvertError for a tokenizer that GGUF has no words for, ConfigError for a damaged one.
    """
    tokenizer, settings = Tokenizer.from_files(files), TokenizerSettings.from_files(files)
    if "tokenizer.model" in files:
        tokens = read_tokenizer_model(files["tokenizer.model"])
    else:
        tokens = read_tokenizer_json(files["tokenizer.json"])
    texts, types, scores = tokens.texts, tokens.types, tokens.scores
    for token, added in sorted(settings.added.items()):
        while len(texts) <= token:
            _append_padding(texts, types, scores)
        if texts[token] != added.text or types[token] in (NORMAL, UNUSED, USER_DEFINED):
            control = settings.is_control(added.text, added.special)
            texts[token], types[token] = added.text, CONTROL if control else USER_DEFINED
    while len(texts) < vocab_size:
        _append_padding(texts, types, scores)
    metadata = {
        **tokens.keys,
        "tokens": texts[:vocab_size],
        "token_type": np.array(types[:vocab_size], np.int32),
        "add_bos_token": tokenizer.adds_bos,
        "add_eos_token": False,
    }
    if tokens.keys["model"] == "llama":
        metadata["scores"] = np.array(scores[:vocab_size], np.float32)
    if tokenizer.bos_id is not None:
        metadata["bos_token_id"] = tokenizer.bos_id
    for key, token in zip(("eos_token_id", "eot_token_id"), tokenizer.eos_ids, strict=False):
        metadata[key] = token
    found = {PREFIX + key: value for key, value in metadata.items()}
    for name, template in settings.templates.items():
        key = "tokenizer.chat_template"
        found[key if name == "default" else f"{key}.{name}"] = template
    return found | _sampling(files)


def _sampling(files: Mapping[str, bytes]) -> dict[str, float]:
    """Return how the model wants to be sampled, if its generation_config.json says so."""
    try:
        given = json.loads(files.get("generation_config.json", b"{}"))
    except ValueError:  # no reason not to export the rest
        return {}
    values = {key: given.get(name) for key, name in SAMPLING.items()} if type(given) is dict else {}
    return {k: v for k, v in values.items() if isinstance(v, int | float)}


def _append_padding(texts: list[str], types: list[int], scores: list[float]) -> None:
    """Append an id that no text has: llama.cpp's converter calls it so too."""
    texts.append(f"[PAD{len(texts)}]")
    types.append(UNUSED)
    scores.append(0.0)
