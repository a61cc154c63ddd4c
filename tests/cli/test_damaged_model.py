"""A model with a NaN in it ends every command that computes in one line, with status 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_models import CONFIGS, write_model

from cpumix.cli.main import main
from cpumix.store import ModelFile


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file whose first router has one NaN; its checksum is not looked at when it runs."""
    path = write_model(tmp_path_factory.mktemp("model"), CONFIGS["moe"])
    with ModelFile(path) as file:
        place = file.tensors["blk.0.router.weight"].offset
    with open(path, "r+b") as stream:
        stream.seek(place + 40)
        stream.write(np.float32(np.nan).tobytes())
    return path


@pytest.mark.parametrize("command", ["run", "perplexity"])
def test_command_names_layer_and_tensor(damaged: Path, tmp_path: Path, command: str) -> None:
    (text := tmp_path / "text").write_text("And they returned to the city. " * 20)
    rest = {"run": ["-p", "And they", "-n", "8"], "perplexity": [str(text), "--context", "16"]}
    done = CliRunner().invoke(main, [command, str(damaged), *rest[command]])
    assert done.exit_code == 1
    assert done.stdout.strip() == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("cpumix: error: ")
    assert "layer 0, experts: expected finite weights in use, found NaN or infinity" in last
    assert '"blk.0.router.weight"' in last
