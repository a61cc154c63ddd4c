"""Small models with random weights, written once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import CONFIGS, write_model


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory):
    """Return the model file of a name in CONFIGS and a precision."""
    made: dict[tuple[str, str], Path] = {}

    def find(name: str, precision: str) -> Path:
        if (name, precision) not in made:
            folder = tmp_path_factory.mktemp(f"{name}-{precision}")
            made[name, precision] = write_model(folder, CONFIGS[name], precision)
        return made[name, precision]

    return find
