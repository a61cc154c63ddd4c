"""The one door to checkpoints: `fit`, `inspect` and `convert` open whatever it is through here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from cpumix.config import ModelConfig
from cpumix.errors import ConvertError

from .files import unreadable
from .head import NO_HEADS, Heads
from .match import match
from .sources import SOURCES, CheckpointSource
from .tensor import Checkpoint


def open_checkpoint(
    path: Path, ignored: Collection[str] = (), heads: Heads = NO_HEADS
) -> Checkpoint:
    """Read a checkpoint's side files and headers, and check that it is whole.

    Fields of its config that are named in `ignored` count as absent. `heads` are those of
    files that are not there yet. Raises ConvertError for what is missing, damaged or superfluous,
    ConfigError for a model that cpumix does not run.
    """
    return match(find_source(path, heads).read(path, ignored, heads))


def read_config(path: Path, ignored: Collection[str] = ()) -> ModelConfig:
    """Return the model that lies at `path`, from its config alone: no weights need be there.

    Raises ConvertError or ConfigError.
    """
    return find_source(path).read_config(path, ignored)


def read_files(path: Path) -> Mapping[str, bytes]:
    """Return the side files of what lies at `path`, by name: no weights need be there.

    Raises ConvertError or ConfigError.
    """
    return find_source(path).read_files(path)


def find_source_name(path: Path, heads: Heads = NO_HEADS) -> str | None:
    """Return the name in `SOURCES` of what `path` is, or None; ConvertError if unreadable."""
    try:
        return next((name for name, source in SOURCES.items() if source.claims(path, heads)), None)
    except OSError as e:
        raise unreadable(path, e) from e


def find_source(path: Path, heads: Heads = NO_HEADS) -> CheckpointSource:
    """Return the kind of source that `path` is. Raises ConvertError if it is none."""
    name = find_source_name(path, heads)
    if name is not None:
        return SOURCES[name]
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except OSError as e:
        raise unreadable(path, e) from e
    if not exists:
        raise ConvertError(
            f'checkpoint: expected a folder, found nothing at "{path}". Check the path.'
        )
    if not is_folder:
        raise ConvertError(
            "checkpoint: expected a folder with config.json and weights, or a GGUF file, "
            f'found another file at "{path}". Name the folder around it.'
        )
    if (path / "adapter_config.json").exists():
        raise ConvertError(
            f'checkpoint: expected a whole model, found an adapter in "{path}". Convert the model '
            "that it was trained on, with --lora and this folder."
        )
    raise ConvertError(
        "checkpoint: expected config.json, params.json or a GGUF file with the weights, "
        f'found none in "{path}". Name the folder of a checkpoint.'
    )
