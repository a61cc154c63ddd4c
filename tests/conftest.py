"""What every test session says and shares."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from background import backgrounds, end
from checkpoints import write_checkpoint
from classifier_cases import MOODS
from configs import config_json

import cpumix


def pytest_report_header() -> str:
    from cpumix.kernels.compile.isa import (
        active,  # not above: tests that need no kernel start faster
    )

    return f"numba {version('numba')}, llvmlite {version('llvmlite')}, CPU level {active().name}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that wait for long runs in the background last."""
    items.sort(key=lambda item: item.get_closest_marker("background") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin the runs that the chosen tests wait for."""
    if not session.config.option.collectonly:
        waiting = (item for item in session.items if item.get_closest_marker("background"))
        for background in backgrounds(dict.fromkeys(item.module for item in waiting)):
            background.begin()


def pytest_unconfigure() -> None:
    """End the runs that nobody waited for."""
    end()


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> Iterator[None]:
    """Let SIGINT reach the tests' processes: what a shell starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The model file that ships in the package."""
    return next((Path(cpumix.__file__).parent / "demo").glob("*.bin"))


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete Mixtral checkpoint of 0.1 M random weights, with a made-up tokenizer."""
    config = config_json(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        max_position_embeddings=2048,
        hidden_act="silu",
        sliding_window=None,
    )
    write_checkpoint(folder := tmp_path_factory.mktemp("checkpoint"), config)
    return folder


@pytest.fixture(scope="session")
def classifier_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier of three moods."""
    folder = tmp_path_factory.mktemp("classifier")
    write_checkpoint(folder / "checkpoint", MOODS, seed=1)
    cpumix.convert(folder / "checkpoint", target := folder / "moods.bin", "int8")
    return target
