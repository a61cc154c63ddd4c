"""`tools/compare_llama_types.py`: only where llama-cpp-python is."""

from __future__ import annotations

import json
from pathlib import Path

import compare_llama_types
import pytest
from demo_checkpoint import write_demo_checkpoint

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

HELDOUT = Path(__file__).parents[1] / "data" / "heldout.txt"


def test_a_row_for_each_type(tmp_path, demo_model):
    folder = write_demo_checkpoint(tmp_path / "checkpoint", demo_model)
    arguments = [str(folder), str(HELDOUT), "--types", "Q8_0,Q4_0", "--windows", "2"]
    assert compare_llama_types.main([*arguments, "--json", str(tmp_path / "rows.json")]) == 0
    eight, four = json.loads((tmp_path / "rows.json").read_text())
    assert 8.4 < eight["bits_per_weight"] < 8.6
    assert 0 < eight["kl_divergence"] < 0.002 < four["kl_divergence"] < 0.03
