"""Finds the shape of a model in whatever the user points at; reads headers, never weights."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cpumix.input_file import read_input, regular

from ..checkpoint import read_config, read_files
from ..checkpoint.containers.gguf_files import is_gguf
from ..checkpoint.sources.huggingface import from_fields
from ..checkpoint.sources.mistral import from_params
from ..config import ModelConfig, without_fields
from ..errors import ConfigError, CpumixError
from ..memory.side_bytes import NO_SIDE_FILES, SideBytes, count_side_bytes, foresee_side_bytes
from ..quant.precision import Precision
from ..store import gguf
from ..store.layout import ALIGNMENT, is_model_file
from ..store.reader import ModelFile
from ..units import MIB
from .known_models import DEFAULT, MODEL_NAMES, known_model

MOST_CONFIG = 16 * MIB  # of a config.json


@dataclass(frozen=True)
class Source:
    """A model to plan."""

    name: str
    config: ModelConfig
    path: Path | None = None  # what was read: a checkpoint's folder, or a file
    precision: Precision | None = None  # of a model file, which has just this one
    header_bytes: int = 0  # of a model file: what it holds besides tensors
    side: SideBytes = NO_SIDE_FILES  # of its tokenizer and what belongs to it, if they are there

    @property
    def is_checkpoint(self) -> bool:
        """Whether `cpumix convert` can take it."""
        path = self.path
        return path is not None and (path.is_dir() or (self.precision is None and is_gguf(path)))


def open_source(text: str | None, ignored: Collection[str] = ()) -> Source:
    """Return the model that `text` stands for: a path, or a name in `known_models.NAMES`.

    Fields of a config.json that are named in `ignored` count as absent. Raises ConfigError, or
    FormatError for a damaged file.
    """
    if text is None:
        return Source(DEFAULT, known_model(DEFAULT))
    path = Path(text)
    if os.path.isdir(path):
        return _checkpoint(path.resolve().name, path, ignored)
    if os.path.isfile(path):
        return _read_file(path, ignored)
    if text.lower() in MODEL_NAMES:
        return Source(text.lower(), known_model(text.lower()))
    raise ConfigError(
        f"source: expected a checkpoint folder, a model file, a config.json or one of "
        f'{", ".join(MODEL_NAMES)}, found no such thing: "{text}".'
    )


def _read_file(path: Path, ignored: Collection[str]) -> Source:
    try:
        with open(path, "rb", opener=regular) as stream:
            head = stream.read(64)
    except OSError as e:
        raise ConfigError(f'source: cannot be read: {e.strerror or e}: "{path}".') from e
    if head[:4] != gguf.MAGIC:
        folder = path.resolve().parent
        name = folder.name if path.name in ("config.json", "params.json") else path.stem
        return Source(name, _read_json(path, ignored), path)
    if not is_model_file(head):
        return _checkpoint(path.stem, path, ignored)
    with ModelFile(path) as file:
        tensors = sum(gguf.align(t.nbytes, ALIGNMENT) for t in file.tensors.values())
        config, side = file.config, count_side_bytes(file.files, file.config.vocab_size)
        return Source(path.stem, config, path, file.formats, file.mapped_bytes - tensors, side)


def _checkpoint(name: str, path: Path, ignored: Collection[str]) -> Source:
    config = read_config(path, ignored)
    try:
        files = read_files(path)
    except CpumixError:  # no tokenizer yet: what it will take cannot be known
        files = {}
    return Source(name, config, path, side=foresee_side_bytes(files, config.vocab_size))


def _read_json(path: Path, ignored: Collection[str]) -> ModelConfig:
    try:
        found = json.loads(read_input(path, MOST_CONFIG))
    except OSError as e:
        raise ConfigError(f'source: cannot be read: {e.strerror or e}: "{path}".') from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f'source: expected JSON or GGUF, found something else: "{path}".') from e
    if not isinstance(found, dict):
        raise ConfigError(f'source: expected a JSON object, found another value: "{path}".')
    found = without_fields(found, ignored, str(path))
    if "dim" in found and "hidden_size" not in found:
        return from_params(found, str(path))
    return from_fields(found, str(path))
