"""`tools/plot_quality.py` on the results that the documentation shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import plot_quality
import pytest

RESULT = Path(plot_quality.__file__).parent / "quality.json"


@pytest.fixture
def drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert plot_quality.main([str(RESULT), str(tmp_path / "quality.svg")]) == 0
    assert "rows drawn to" in capsys.readouterr().out
    return (tmp_path / "quality.svg").read_text("utf-8")


@pytest.mark.slow
def test_every_precision_and_kind_is_in_the_figure(drawn):
    rows = json.loads(RESULT.read_text("utf-8"))
    assert {row["calibration"] for row in rows} == set(plot_quality.LINES)
    for row in rows:
        if row["calibration"] in ("none", "llama.cpp"):
            assert re.search(rf">[^<]*\b{row['level']}\b[^<]*</text>", drawn)
    for label, *_ in plot_quality.LINES.values():
        assert f">{label}<" in drawn


def test_lines_that_no_result_has_are_left_out(tmp_path):
    pytest.importorskip("matplotlib")
    row = {"level": "int4", "calibration": "none", "bits_per_weight": 4.7, "kl_divergence": 0.005}
    plot_quality.draw([row], tmp_path / "quality.png")
    assert (tmp_path / "quality.png").read_bytes()[:4] == b"\x89PNG"
