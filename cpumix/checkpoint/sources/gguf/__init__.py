"""A GGUF file of another program, or the first part of a split one: all that a model needs."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from cpumix.config import ModelConfig
from cpumix.config.values import token_ids
from cpumix.errors import ConvertError, quoted
from cpumix.input_file import regular
from cpumix.store.layout import is_model_file

from ...containers.gguf import GgufModel, is_gguf, part_number, read_gguf
from ...encodings import assemble
from ...namings.gguf import namings
from ...shards import Heads
from ...tensor import Contents
from .. import huggingface
from .config import ROPE_FACTORS, config_of
from .tokenizer import describe_tokenizer, tokenizer_files

__all__ = ["claims", "read", "read_config", "read_files"]


def claims(path: Path) -> bool:
    """Whether this is a GGUF file, or a folder with some and with no weights of other kinds."""
    if not path.is_dir():
        return is_gguf(path)
    return bool(_models_in(path)) and not any(k.exists(path) for k in huggingface.SHARDS)


def read_config(path: Path, ignored: Collection[str] = ()) -> ModelConfig:
    """Return the model that a file's metadata describe."""
    return config_of(_read_model(path), str(path), ignored)


def read_files(path: Path) -> dict[str, bytes]:
    """Return the files that a vocabulary in a file's metadata stands for."""
    return tokenizer_files(_read_model(path).metadata, str(path))


def read(path: Path, ignored: Collection[str], heads: Heads) -> Contents:
    """Return what a file, with all parts of its model, holds."""
    model = _read_model(path)
    config = config_of(model, str(path), ignored)
    files = tokenizer_files(model.metadata, str(path))
    ends = json.loads(files["generation_config.json"])["eos_token_id"]
    ends = token_ids(ends, "eos_token_id", f'"{path}"', config.vocab_size)
    config = replace(config, eos_token_ids=ends)
    stored = {name: t for name, t in model.tensors.items() if name != ROPE_FACTORS}
    matrices = assemble(stored, "ggml", {})
    vocabulary = describe_tokenizer(model.metadata)
    return Contents(path, config, matrices, namings(config), files, vocabulary=vocabulary)


def _models_in(folder: Path) -> list[Path]:
    """Return the models in a folder: files of their own, and the first parts of split ones."""
    found = [path for path in sorted(folder.glob("*.gguf")) if not path.name.startswith("._")]
    return [path for path in found if part_number(path) in (None, 1)]


def _read_model(path: Path) -> GgufModel:
    if path.is_dir():
        models = _models_in(path)
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
