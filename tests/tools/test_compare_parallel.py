"""`tools/compare_parallel.py` against a stand-in for llama-batched-bench."""

from __future__ import annotations

import json
import os
import stat
import sys

import compare_parallel
import pytest
from click.testing import CliRunner
from tiny_models import CONFIGS, write_source

import cpumix

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="scripts are no programs there"),
]

BENCH = """#!{python}
import sys
times = 3 if "-fast" in sys.argv else 1
if times == 3:  # as forks do
    sys.stdout = sys.stderr
print("main: n_kv_max = 4")
print("| PP | TG | B | N_KV | T_PP s | S_PP t/s | T_TG s | S_TG t/s | T s | S t/s |")
print("|----|----|---|------|--------|----------|--------|----------|-----|-------|")
counts = sys.argv[sys.argv.index("-npl") + 1].split(",")
for n in map(int, counts):
    print(f"| 128 | 64 | {{n}} | 1000 | 1.000 | 7777.00 | 1.000 | {{times * n:.2f}} | 2.0 | 9.9 |")
assert sys.argv[sys.argv.index("-c") + 1] == str(192 * max(map(int, counts)))
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "llama-batched-bench"
    path.write_text(BENCH.format(python=sys.executable))
    path.chmod(stat.S_IRWXU)
    return path


def test_fastest_command_of_a_name_counts(tmp_path, program):
    model = tmp_path / "model.bin"
    cpumix.convert(write_source(tmp_path / "checkpoint", CONFIGS["moe"]), model, "int8")
    words = [model, "--parallel", "1,2", "--rounds", 2, "--threads", 1]
    for command in (f"slow={program}", f"best={program}", f"best={program} -fast"):
        words += ["--other", command]
    result = CliRunner().invoke(compare_parallel.main, [*map(str, words), "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert len(report["memory_gb_s"]) == 2
    rows = {(row["engine"], row["parallel"]): row for row in report["rows"]}
    assert len(rows) == 6
    for count in (1, 2):
        assert rows["slow", count]["tok_s"] == count
        assert rows["best", count]["tok_s"] == 3 * count
        assert rows["cpumix", count]["ratio"] == 1
        ratios = [rows[name, count]["ratio"] for name in ("slow", "best")]
        assert ratios[0] == pytest.approx(3 * ratios[1])
    told = CliRunner().invoke(compare_parallel.main, list(map(str, words)))
    assert told.exit_code == 0, told.output
    assert " of it\n" in told.stdout


def test_what_is_no_table_is_told(tmp_path, program):
    model = tmp_path / "model.bin"
    cpumix.convert(write_source(tmp_path / "checkpoint", CONFIGS["moe"]), model, "int8")
    program.write_text(f"#!{sys.executable}\nprint('hello')\n")
    words = [model, "--parallel", "1", "--rounds", 1, "--threads", 1, "--other", f"a={program}"]
    result = CliRunner().invoke(compare_parallel.main, list(map(str, words)))
    assert result.exit_code == 1
    assert "expected a table of speeds, found none" in result.stderr
    result = CliRunner().invoke(compare_parallel.main, [str(model), "--other", "llama"])
    assert result.exit_code == 2
    assert 'expected NAME=COMMAND, found "llama"' in result.stderr
