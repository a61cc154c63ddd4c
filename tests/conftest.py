"""What every test session says and shares."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from importlib.metadata import version
from pathlib import Path

# Several processes share the processors, so a thread that waits for work had better sleep: OpenMP's
# look for more in a loop unless they are told, and so do those that NumPy starts when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from checkpoints import write_checkpoint
from classifier_cases import MOODS
from configs import config_json

import cpumix

if sys.dont_write_bytecode:  # hundreds of processes begin here: let the first one compile for all
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).parents[1] / ".pytest_cache/bytecode")
    sys.pycache_prefix, sys.dont_write_bytecode = os.environ["PYTHONPYCACHEPREFIX"], False


def pytest_report_header() -> str:
    from cpumix.kernels.compile.isa import (
        active,  # not above: tests that need no kernel start faster
    )

    return f"numba {version('numba')}, llvmlite {version('llvmlite')}, CPU level {active().name}"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep Python's search for garbage away from thousands of tests, which live until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first, so that no worker is left with one when the others are done."""
    items.sort(key=lambda item: item.get_closest_marker("long_run") is None)


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard() -> Iterator[None]:
    """Let signals reach the tests' processes: the background ignores Ctrl-C, nohup a hang-up."""
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that all of its workers see."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def first_run_is_over(request: pytest.FixtureRequest, shared_folder: Path) -> None:
    """Compile the kernels before many tests begin: the run that does it says so on stderr."""
    if len(request.session.items) > 100 and "CPUMIX_ISA" not in os.environ:
        from levels import run_once

        from cpumix.kernels.compile.jit import is_cold  # not above, for the same reason

        if is_cold():
            run_once(shared_folder, ["-m", "cpumix", "run", "--prompt", "And", "-n", "1"], {})


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
