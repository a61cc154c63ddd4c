"""What every test session says and shares."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from background import backgrounds, end
from make_checkpoint import synthetic_tokenizer
from tiny_checkpoint import make_weights, write_checkpoint

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
    config = {
        "architectures": ["MixtralForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 32,
        "intermediate_size": 48,
        "max_position_embeddings": 2048,
        "model_type": "mixtral",
        "num_attention_heads": 4,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 512,
    }
    return write_checkpoint(
        tmp_path_factory.mktemp("checkpoint"),
        config,
        make_weights(config, seed=0),
        tokenizer=synthetic_tokenizer(512),
    )
