"""The tool that compares levels scores nothing that it calibrated with."""

from __future__ import annotations

import json
from pathlib import Path

import checkpoints
import compare_formats
import pytest
from click.testing import CliRunner

HELDOUT = Path(__file__).parents[1] / "data" / "heldout.txt"


def test_pieces_are_the_text_and_share_nothing():
    text = "".join(f"line {i}\n" for i in range(20_000))
    scored, calibrated = compare_formats.alternate(text)
    lines = scored.splitlines(), calibrated.splitlines()
    assert not set(lines[0]) & set(lines[1])
    assert sorted(lines[0] + lines[1]) == sorted(text.splitlines())
    assert abs(len(scored) - len(calibrated)) < 2 * compare_formats.PIECE


@pytest.mark.slow
def test_a_row_for_each_kind_of_calibration(tmp_path):
    config = checkpoints.MIXTRAL | {"vocab_size": 300, "max_position_embeddings": 512}
    checkpoints.write_checkpoint(tmp_path / "source", config)
    options = ["--levels", "int4", "--windows", "2", "--tokens", "4096"]
    target = ["--json", str(tmp_path / "rows.json")]
    arguments = [str(tmp_path / "source"), str(HELDOUT), *options, *target]
    result = CliRunner().invoke(compare_formats.main, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "rows.json").read_text())
    assert [row["calibration"] for row in found] == ["none", "same", "shipped"]
    assert len({row["file_bytes"] for row in found}) <= 2  # with calibration the header says more
    assert all(row["kl_divergence"] > 0 for row in found)
    assert len({row["weight_bytes"] for row in found}) == 1
    assert all(row["weight_bytes"] < row["file_bytes"] for row in found)
    assert len(result.output.splitlines()) == 4


def test_without_text_of_the_same_kind_all_is_scored(tmp_path):
    config = checkpoints.MIXTRAL | {"vocab_size": 300, "max_position_embeddings": 512}
    checkpoints.write_checkpoint(tmp_path / "source", config)
    text = "In the beginning God created the heaven and the earth. " * 40
    (row,) = compare_formats.rows(tmp_path / "source", text, ["int8"], ["none"], None, 4096)
    assert row["tokens"] == 255 * (row["tokens"] // 255) > 255
    assert row["other_experts"] >= 0


def test_unknown_calibration_is_refused(tmp_path):
    arguments = [str(tmp_path), str(HELDOUT), "--calibrations", "none,other"]
    result = CliRunner().invoke(compare_formats.main, arguments)
    assert result.exit_code == 2
    assert "expected some of none, same, shipped, found other." in result.output
