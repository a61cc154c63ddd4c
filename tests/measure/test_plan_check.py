"""`cpumix fit --verify`: what the plan predicts is what a run takes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cpumix.cli.main import main
from cpumix.errors import BudgetError
from cpumix.measure import plan_check

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("context", "kv"), [(64, "f16"), (300, "f16"), (1024, "int8"), (2048, "f16")]
)
def test_predicted_total_is_the_measured_one(demo_model, context, kv):
    found = plan_check.verify(demo_model, None, context, kv, probe=False)
    assert found.plan.context == context
    predicted, measured = found.predicted, found.measured
    # The plan keeps what a long prompt may need in addition: it is never too small.
    assert measured["total_bytes"] <= predicted["total_bytes"] <= 1.06 * measured["total_bytes"]
    assert predicted["kv_bytes"] == pytest.approx(measured["kv_bytes"], rel=0.02, abs=8192)
    assert measured["weight_bytes"] <= demo_model.stat().st_size
    assert measured["tok_s"] > 0


def test_verify_prints_predicted_beside_measured(monkeypatch, demo_model):
    sizes = {"weight_bytes": 30 << 20, "kv_bytes": 1 << 20, "buffer_bytes": 9 << 20}
    measured = sizes | {"total_bytes": 40 << 20, "tok_s": 3.14159, "has_compiled": False}
    monkeypatch.setattr(plan_check, "_run", lambda arguments: dict(measured))
    arguments = ["fit", "--verify", str(demo_model), "--no-probe", "--context", "64"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    head, titles, *lines = result.stdout.splitlines()
    assert head == f"{demo_model}: int8, context 64, KV cache f16"
    assert titles.split() == ["predicted", "measured"]
    assert [line[:10].rstrip() for line in lines] == [
        "weights",
        "KV cache",
        "buffers",
        "total",
        "tok/s",
    ]
    assert [line.split()[-4:-2] for line in lines[:2]] == [["30.0", "MiB"], ["1.0", "MiB"]]
    assert lines[-1].endswith(" 3.14")
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert found["measured"] == {k: v for k, v in measured.items() if k != "has_compiled"}
    assert found["predicted"].keys() == found["measured"].keys()


def test_a_run_that_compiles_is_repeated(monkeypatch, demo_model):
    runs = []

    def run(arguments):
        runs.append(arguments)
        return {"has_compiled": len(runs) == 1, "total_bytes": len(runs)}

    monkeypatch.setattr(plan_check, "_run", run)
    assert plan_check.verify(demo_model, None, 64, probe=False).measured == {"total_bytes": 2}
    assert runs == [[str(demo_model), "64", "f16", ""]] * 2


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by signal 9"),
        ("raise ValueError('no more')", "failed: no more"),
    ],
)
def test_run_that_ends_badly(monkeypatch, demo_model, program, sentence):
    monkeypatch.setattr(plan_check, "COMMAND", [plan_check.sys.executable, "-c", program])
    with pytest.raises(BudgetError, match=rf"verify: the run of .* {sentence}"):
        plan_check.verify(demo_model, None, 64, probe=False)
