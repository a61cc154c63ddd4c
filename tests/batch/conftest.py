"""A tiny model of random weights with a chat template, and batches of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_models import write_chat_model

import cpumix
from cpumix.api.served_model import ServedModel
from cpumix.batch.line import Line
from cpumix.batch.settings import Settings
from cpumix.batch.worker import ModelOptions, Worker, look_at


@pytest.fixture(scope="session")
def chat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("batch"), max_position_embeddings=1024)


@pytest.fixture(scope="session")
def served(chat_file: Path) -> Iterator[ServedModel]:
    with cpumix.load(chat_file, parallel=2, threads=1, context=512) as model:
        yield ServedModel(model)


@pytest.fixture
def settings() -> Settings:
    return Settings(context=512, kv="f16", max_tokens=4)


@pytest.fixture
def make_worker(chat_file: Path) -> Iterator[Callable[..., Worker]]:
    """Return a function that loads the model as a worker; its settings may be given."""
    workers: list[Worker] = []

    def make(parallel: int = 2, model: Path = chat_file, **changes: Any) -> Worker:
        found = look_at(model, 512, "auto")
        options = ModelOptions(model, found.fingerprint, parallel, threads=1)
        settings = Settings(found.context, found.kv, **{"max_tokens": 4, **changes})
        workers.append(worker := Worker(options, settings))
        return worker

    yield make
    for worker in workers:
        worker.close()


@pytest.fixture
def refused(served: ServedModel, settings: Settings) -> Callable[[Any], dict[str, Any]]:
    """Return a function that gives the answer to a line that is at fault."""

    def answer(line: Any) -> dict[str, Any]:
        data = line if isinstance(line, bytes | None) else json.dumps(line).encode()
        read = Line(0, data, served, settings)
        assert read.pieces == []
        return read.answer([])

    return answer
