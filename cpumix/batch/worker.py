"""A loaded model that answers parts of a batch: one in this process, or one in each Ray actor."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from cpumix.api.served_model import ServedModel
from cpumix.errors import ConfigError, CpumixError, quoted
from cpumix.kv.formats import find_format
from cpumix.memory.planner import default_context
from cpumix.model import Model
from cpumix.store.reader import ModelFile

from .line import Line, encode
from .relay import Counts, Group, Relay
from .settings import Settings

PARTS_AT_ONCE = 2  # parts of a worker: while one ends, the next one has begun


class Part(NamedTuple):
    """Some lines that follow one another."""

    number: int
    first: int
    """The place of the first line."""
    lines: Sequence[bytes | None]


class Answered(NamedTuple):
    """What has come of a part."""

    number: int
    data: bytes
    """An answer for each line, each with a newline."""
    passed_over: set[str]
    """Fields of bodies that are not known."""
    counts: Counts
    """What its worker had done by then."""


@dataclass(frozen=True)
class ModelOptions:
    """How a model is loaded: which file, and what changes no answer."""

    path: Path
    fingerprint: str
    parallel: int
    ram: int | None = None
    threads: int | None = None


class ModelSettings(NamedTuple):
    """What of a model answers depend on."""

    fingerprint: str
    context: int
    kv: str


def look_at(path: Path, context: int | None, kv: str) -> ModelSettings:
    """Return a model file's fingerprint, and what it takes for a context and a format of its own.

    Raises FormatError for a file that is none.
    """
    with ModelFile(path) as file:
        context = default_context(file.config) if context is None else context
        return ModelSettings(file.fingerprint, context, find_format(kv, file.formats))


class Worker:
    """Answers parts; several threads may ask, and while one part ends the next one begins."""

    def __init__(self, options: ModelOptions, settings: Settings) -> None:
        """Load the model. Raises what `cpumix.load` does, ConfigError if it is another one."""
        self._settings = settings
        self._model = Model(
            options.path,
            ram=options.ram,
            threads=options.threads,
            context=settings.context,
            kv=settings.kv,
            parallel=options.parallel,
        )
        try:
            if self._model.file.fingerprint != options.fingerprint:
                raise ConfigError(
                    f"model: expected the one that the batch began with, found another at "
                    f"{quoted(options.path)}. Leave the file as it is until the batch is done."
                )
            self._served = ServedModel(
                self._model,
                chat_template=settings.chat_template,
                defaults=settings.defaults(self._model.sampling_defaults),
            )
        except BaseException:
            self._model.close()
            raise
        self._relay = Relay(self._model.engine, options.parallel)
        # Templates, tokenizers and grammars come from files and bear no two threads at once.
        self._preparing = threading.Lock()

    @property
    def notes(self) -> list[str]:
        """What the user should know about memory, a line each."""
        return self._model.notes

    @property
    def counts(self) -> Counts:
        """What has been done so far."""
        return self._relay.counts

    def run(self, part: Part) -> Answered:
        """Answer a part. Raises CpumixError and OSError for what is not one line's fault."""
        with self._preparing:
            lines = [
                Line(place, data, self._served, self._settings)
                for place, data in enumerate(part.lines, part.first)
            ]
        group = Group([line.pieces for line in lines])
        self._relay.add(group)
        group.wait()
        if not self._model.engine.loop.alive:
            error = self._model.engine.loop.error
            raise CpumixError(f"engine: expected it to go on, found it ended ({error!r}).")
        answers = [
            line.answer([group.errors[id(p)] for p in line.pieces if id(p) in group.errors])
            for line in lines
        ]
        passed_over = {name for line in lines for name in line.passed_over}
        data = b"".join(map(encode, answers))
        return Answered(part.number, data, passed_over, replace(self.counts))

    def close(self) -> None:
        """Break off what is under way, and close the model."""
        self._relay.close()
        self._model.close()
