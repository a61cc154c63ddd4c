"""`tools/measure_sensitivity.py`, and that the package has the numbers that it found."""

from __future__ import annotations

import json
from pathlib import Path

import measure_sensitivity
import pytest
from measure_sensitivity import UNIFORM, groups, losses, with_group

from cpumix.quant.precision import LayerFormats
from cpumix.quant.sensitivity import MEASURED

RESULT = json.loads((Path(measure_sensitivity.__file__).parent / "sensitivity.json").read_text())
LAYERS = len(MEASURED.layers)
HELDOUT = Path(__file__).parents[1] / "data" / "heldout.txt"


def test_what_mixes_are_composed_by_is_what_was_measured():
    found = losses(RESULT["alone"], LAYERS)
    for name, field, layer, formats in groups(LAYERS):
        own = getattr(MEASURED if layer is None else MEASURED.layers[layer], field)
        assert list(own) == list(formats)
        for kind, loss in own.items():
            assert loss == float(f"{found[name, kind]:.3g}")
            assert RESULT["losses"][name][kind] == pytest.approx(found[name, kind])
        assert list(own.values()) == sorted(own.values(), reverse=True)


def test_losses_of_groups_sum_up_to_what_all_lose_together():
    found = losses(RESULT["alone"], LAYERS)
    for row in RESULT["alone"][: len(UNIFORM)]:
        precision = next(p for p in UNIFORM if p.name == row["format"])
        total = sum(
            found[name, getattr(precision if layer is None else precision.layer(layer), field)]
            for name, field, layer, _ in groups(LAYERS)
        )
        assert total == pytest.approx(row["kl_divergence"])


def test_more_bits_never_lose_more():
    rows = [dict(row) for row in RESULT["alone"]]
    for row in rows:
        if (row["group"], row["format"]) == ("layer 3 down", "q8"):
            row["kl_divergence"] = 1e-3  # as noise may have it
    found = losses(rows, LAYERS)
    assert found["layer 3 down", "q6"] == found["layer 3 down", "q8"]


def test_one_group_takes_a_format_and_the_rest_stays():
    chosen = with_group(3, "down", 1, "q3s")
    assert chosen.layers[1] == LayerFormats("bf16", "bf16", "q3s")
    assert chosen.formats == {"bf16", "q3s"}
    assert with_group(3, "head", None, "q6").head == "q6"


@pytest.mark.slow
def test_measures_every_group(checkpoint_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure_sensitivity, "CONTEXT", 16)
    target = tmp_path / "result.json"
    arguments = [str(checkpoint_folder), str(HELDOUT), "--windows", "1", "--json", str(target)]
    assert measure_sensitivity.main(arguments) == 0
    result = json.loads(target.read_text())
    names = {name for name, *_ in groups(2)}
    assert set(result["losses"]) == names
    assert {row["group"] for row in result["alone"]} == names | {"all"}
    assert all(row["kl_divergence"] > 0 for row in result["alone"])
    assert "As parts of what all lose together" in capsys.readouterr().out
