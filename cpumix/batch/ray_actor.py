"""What runs on the nodes of a Ray cluster: a model that answers parts, and how it gets there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ray

from cpumix.cache_dir import models_folder
from cpumix.errors import ConfigError, CpumixError, quoted
from cpumix.input_file import regular
from cpumix.kernels.compile.code_cache import turn
from cpumix.store.reader import ModelFile
from cpumix.store.temporary import remove_stale, whole_file
from cpumix.units import format_size

from .ray_nodes import given_threads
from .relay import Counts
from .settings import Settings
from .worker import Answered, ModelOptions, Part, Worker

PIECE = 32 << 20  # bytes of a model file that are sent at once

ReadBytes = Callable[[int, int], bytes]
"""Returns so many bytes from an offset of the model file."""


class ModelSource:
    """An actor beside the driver, which reads the model file for nodes that do not have it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, offset: int, count: int) -> bytes:
        """Return some bytes of the file; fewer at its end."""
        with open(self._path, "rb", opener=regular) as file:
            file.seek(offset)
            return file.read(count)


class Opened(NamedTuple):
    """What is told of a model that was loaded."""

    process: int
    threads: int
    notes: list[str]


class RayWorker:
    """An actor that answers parts; it does nothing before it is told to open the model."""

    def __init__(self, options: ModelOptions, settings: Settings, actors: int) -> None:
        self._options, self._settings, self._actors = options, settings, actors
        self._worker: Worker | None = None

    def open(self, source: Any) -> Opened:
        """Load the model, which `source` has if this node does not.

        As many threads as the processors that Ray gives, and no more than there are cores.
        """
        options = self._options
        path = node_file(options, lambda at, n: ray.get(source.read.remote(at, n)))
        threads = options.threads or given_threads(actors=self._actors) or 1
        self._worker = Worker(replace(options, path=path, threads=threads), self._settings)
        return Opened(os.getpid(), threads, self._worker.notes)

    def run(self, part: Part) -> Answered:
        """Answer a part."""
        assert self._worker is not None
        return self._worker.run(part)

    def counts(self) -> Counts:
        """Return what has been done so far."""
        return Counts() if self._worker is None else self._worker.counts


def node_file(options: ModelOptions, read: ReadBytes) -> Path:
    """Return the model file on this node: the one at the same path, or a copy in the cache folder.

    A copy is made once for a node and kept. Raises ConfigError where there is no room for it.
    """
    if _is_it(options.path, options.fingerprint):
        return options.path
    path = models_folder() / f"{options.path.stem}-{options.fingerprint}.bin"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            stack.enter_context(turn(path.parent.parent))
        if not _is_it(path, options.fingerprint):
            _fetch(path, options.fingerprint, read)
    return path


def _is_it(path: Path, fingerprint: str) -> bool:
    try:
        with ModelFile(path) as file:
            return file.fingerprint == fingerprint
    except (CpumixError, OSError):
        return False


def _fetch(path: Path, fingerprint: str, read: ReadBytes) -> None:
    remove_stale(path)
    size, free = int(fingerprint.rpartition("-")[2]), shutil.disk_usage(path.parent).free
    if free < size:
        raise ConfigError(
            f"model: expected {format_size(size)} free for a copy in {quoted(path.parent)}, found "
            f"{format_size(free)}. Free some, or put the model where every node has it."
        )
    with whole_file(path) as file:
        while piece := read(file.tell(), PIECE):
            file.write(piece)
        file.flush()
        if not _is_it(Path(file.name), fingerprint):
            raise ConfigError(
                "model: expected the file that the batch began with, found that another one was "
                "sent. Leave the file as it is until the batch is done."
            )
