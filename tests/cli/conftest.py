"""Models that the tests of several commands share."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_models import write_chat_model
from tiny_models import CONFIGS, write_model


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model with a chat template."""
    return write_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model without one."""
    return write_model(tmp_path_factory.mktemp("base"), CONFIGS["moe"])
