"""Models that were never converted: says what to type, or converts them into the cache folder."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from pathlib import Path

import click

import cpumix
from cpumix.cache_dir import models_folder
from cpumix.errors import ConvertError
from cpumix.input_file import regular
from cpumix.units import format_size

from .progress import byte_progress


def model_file(path: Path | None, convert: bool, ram: int | None) -> Path | None:
    """Return the model file to run: `path`, or what a checkpoint there was converted to.

    With `convert`, a checkpoint is converted to the best precision for `ram`, once, into the cache
    folder. Without it, raises ConvertError with the command that does it.
    """
    if path is None or not _is_checkpoint(path):
        return path
    name = re.sub(r"[^A-Za-z0-9._-]", "_", path.resolve().name.removesuffix(".gguf"))
    if not convert:
        command = shlex.join(["cpumix", "convert", str(path), f"{name}.bin"])
        raise ConvertError(
            f'"{path}": a checkpoint, which is converted once before it runs. Type: {command} - or '
            "use --convert, which keeps the result in the cache folder."
        )
    target = models_folder() / f"{name}-{_fingerprint(path, ram)}.bin"
    if not target.exists():
        with byte_progress(f"Converting {path.name or path}") as progress:
            report = cpumix.convert(path, target, ram=ram, progress=progress)
        size = format_size(report.file_bytes)
        click.echo(f"converted to {report.precision}, {size}, kept as {target}", err=True)
    return target


def _is_checkpoint(path: Path) -> bool:
    from cpumix.checkpoint.open import find_source_name
    from cpumix.store.layout import is_model_file

    if os.path.isfile(path):
        with open(path, "rb", opener=regular) as file:
            if is_model_file(file.read(64)):
                return False
    return find_source_name(path) is not None


def _fingerprint(path: Path, ram: int | None) -> str:
    """Return what changes with the checkpoint's files and with the memory to convert for."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(str(path.resolve()), ram, 0)]
    for file in filter(Path.is_file, files):
        state = file.stat()
        states.append((file.name, state.st_size, state.st_mtime_ns))
    return hashlib.sha256(repr(states).encode()).hexdigest()[:12]
