"""The tool that measures waiting: it runs, and its ratios are of the right things."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import CONFIGS, write_model

TOOL = Path(__file__).parents[2] / "tools" / "measure_waits.py"
pytestmark = pytest.mark.slow


def test_it_measures_all_three(tmp_path: Path) -> None:
    model = write_model(tmp_path, {**CONFIGS["moe"], "max_position_embeddings": 4096})
    options = ("--prompt", 600, "--said", 500, "--new", 16, "--rounds", 1, "--json")
    command = [sys.executable, TOOL, model, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["longest_gap"] >= 1
    assert found["quoting"] is found["free"] is None
    assert all(found[name] > 0 and math.isfinite(found[name]) for name in list(found)[:3])
