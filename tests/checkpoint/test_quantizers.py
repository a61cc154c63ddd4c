"""What the quantizers themselves wrote, value for value, see tools/record_quantizers.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cpumix.checkpoint.containers import read_tensors
from cpumix.checkpoint.encodings import assemble
from cpumix.checkpoint.matrix import read_codes, widen

FOLDER = Path(__file__).parents[1] / "data" / "quantizers"
TOOLS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
CASES = [
    pytest.param(tool, case, id=f"{tool}-{case}")
    for tool, facts in TOOLS.items()
    for case in facts["cases"]
]


@pytest.mark.parametrize(("tool", "case"), CASES)
def test_every_value_is_that_of_the_tool(tool: str, case: str) -> None:
    facts: dict[str, Any] = TOOLS[tool]["cases"][case]
    stored = {
        name.replace(case, "m", 1): part
        for name, part in read_tensors(FOLDER / f"{tool}.safetensors").items()
        if name.startswith(case + ".")
    }
    found = assemble(stored, TOOLS[tool]["encoding"], facts["settings"])
    assert found.keys() == {"m.weight"}
    matrix = found["m.weight"]
    assert list(matrix.shape) == facts["shape"]
    rows = widen(matrix.read_rows(0, matrix.shape[0]))
    assert hashlib.sha256(rows.tobytes()).hexdigest() == facts["sha256"]
    codes = read_codes(matrix, 0, matrix.shape[0])
    if codes is not None:
        assert (codes.codes * widen(codes.scales).repeat(32, axis=1) == rows).all()


def test_there_are_some() -> None:
    assert {facts["encoding"] for facts in TOOLS.values()} == {
        "bitsandbytes", "compressed-tensors", "gptq", "hqq", "mlx",
    }  # fmt: skip
