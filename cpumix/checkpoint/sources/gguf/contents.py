"""Reads a GGUF file of another program, all parts of a split one: config, tokenizer, matrices."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from cpumix.config import ModelConfig
from cpumix.config.values import token_ids
from cpumix.errors import ConvertError, quoted
from cpumix.input_file import regular
from cpumix.store.layout import is_model_file

from ...containers.gguf import read_gguf
from ...containers.gguf_files import models_in
from ...encodings import assemble
from ...head import NO_HEADS, Head, Heads
from ...namings.gguf import namings
from ...tensor import Contents
from .config import ROPE_FACTORS, config_of
from .tokenizer import describe_tokenizer, tokenizer_files


def read_config(path: Path, ignored: Collection[str] = ()) -> ModelConfig:
    """Return the model that a file's metadata describe."""
    return config_of(_read_model(path), str(path), ignored)


def read_files(path: Path) -> Mapping[str, bytes]:
    """Return the files that a vocabulary in a file's metadata stands for."""
    return tokenizer_files(_read_model(path).metadata, str(path))


def read(path: Path, ignored: Collection[str], heads: Heads) -> Contents:
    """Return what a file, with all parts of its model, holds."""
    model = _read_model(path, heads)
    config = config_of(model, str(path), ignored)
    files = tokenizer_files(model.metadata, str(path))
    ends = json.loads(files["generation_config.json"])["eos_token_id"]
    ends = token_ids(ends, "eos_token_id", f'"{path}"', config.vocab_size)
    config = replace(config, eos_token_ids=ends)
    stored = {name: t for name, t in model.tensors.items() if name != ROPE_FACTORS}
    matrices = assemble(stored, "ggml", {})
    vocabulary = describe_tokenizer(model.metadata)
    return Contents(path, config, matrices, namings(config), files, vocabulary=vocabulary)


def _read_model(path: Path, heads: Heads = NO_HEADS) -> Head:
    if path in heads:
        return read_gguf(path, heads)
    if path.is_dir():
        models = models_in(path)
        if len(models) > 1:
            raise ConvertError(
                f'"{path}": expected a folder with one GGUF model, found {len(models)}, such as '
                f"{quoted(models[0].name)} and {quoted(models[1].name)}. Name one of the files."
            )
        path = models[0]
    with open(path, "rb", opener=regular) as file:
        if is_model_file(file.read(64)):
            raise ConvertError(
                f'"{path}": expected a checkpoint, found a model file that cpumix wrote. '
                "Run it, or convert the checkpoint that it was made of."
            )
    return read_gguf(path)
