"""`cpumix fit` as it is typed: the page, the JSON, the statuses, and that it answers at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from cpumix.cli.bars import TERMINAL, Bars
from cpumix.cli.fit_table import Page
from cpumix.cli.main import main
from cpumix.fit.answer import answer
from cpumix.fit.sources import open_source
from cpumix.fit.speed import ASSUMED
from cpumix.machine import MachineInfo
from cpumix.quant.kv import KV_FORMATS
from cpumix.quant.precision import PRECISIONS

GIB = 2**30


def invoke(*arguments: object):
    return CliRunner().invoke(main, ["fit", "--no-probe", *map(str, arguments)])


def page(
    gib: float, width: int, is_terminal: bool, machine: MachineInfo | None = None
) -> list[str]:
    found = answer(open_source(None), int(gib * GIB), 4096, ASSUMED)
    return [line.rstrip() for line in Page(found, width, is_terminal).lines(machine)]


def without_colors(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--ram", "64G"], 0),
        (["--ram", "38G"], 0),
        (["--ram", "24G"], 0),
        (["--ram", "16G"], 3),
        (["--ram", "2G"], 4),
        (["--ram", "48G", "--precision", "int8"], 3),
        (["--ram", "48G", "--precision", "mix-6", "--kv", "int8"], 0),
        (["mistral-7b", "--ram", "16G", "--context", 32768], 0),
    ],
)
def test_status_is_the_verdict(arguments, status):
    result = invoke(*arguments)
    assert result.exit_code == status
    assert result.stderr == ""
    again = invoke(*arguments, "--json")
    assert again.exit_code == status
    assert json.loads(again.stdout)["choice"] in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ram", "0"], 'size: "0" is less than 1 MiB. Write an amount such as 64G'),
        (["--ram", "-5G"], "size: expected an amount such as 64G"),
        (["--ram", "64X"], "size: expected an amount such as 64G"),
        (["--context", 0], "'--context': 0 is not in the range x>=1."),
        (["--context", 32769], "context: expected 1 to 32768 tokens"),
        (
            ["--precision", "int5"],
            'expected one of auto, bf16, int8, int4, int3, int2, mix-B, found "int5".',
        ),
        (["--precision", "mix-32"], 'or "mix-B" with B of 2.41 to 8.50 bits for a weight'),
        (["--kv", "int5"], "Invalid value for '--kv'"),
        (["no/such/model"], "found no such thing"),
    ],
)
def test_nonsense_is_status_2(arguments, sentence):
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


def test_config_without_the_needed_fields_is_status_2(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    result = invoke(tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.fullmatch(r"cpumix: error: .*: expected the fields of .*\n", result.stderr)


@pytest.mark.parametrize("size", ["64G", "64GB", "64GiB", "65536M", "68719476736"])
def test_every_way_to_write_64_gib(size):
    result = invoke("--ram", size, "--json")
    assert json.loads(result.stdout)["ram_bytes"] == 64 * GIB
    assert "64.0 GiB of memory" in invoke("--ram", size).stdout


def test_options_know_every_level_and_cache():
    assert set(PRECISIONS) < set(re.split(r"\W+", invoke("--help").stdout))
    assert all(invoke("--ram", "64G", "--kv", kv).exit_code == 0 for kv in KV_FORMATS)


def test_small_models_are_told_in_mib(demo_model):
    result = invoke(demo_model, "--ram", "8G")
    assert result.exit_code == 0
    assert "Sizes in MiB (1024 KiB)" in result.stdout
    assert f"cpumix run {demo_model} -p " in result.stdout
    assert "cpumix convert" not in result.stdout


@pytest.mark.parametrize("gib", [4, 32, 48, 64, 200])
@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_page_keeps_within_its_width(gib, width, is_terminal):
    lines = page(gib, width, is_terminal)
    drawn = [without_colors(line) for line in lines]
    assert all(len(line) <= width for line in drawn if not line.startswith("  cpumix "))
    assert (drawn != lines) == is_terminal
    assert "\n".join(drawn).isascii() != is_terminal
    assert any("70 %" in line and "75 %" in line for line in drawn[:8])
    assert sum(line.startswith(("> ", "▸ ")) for line in drawn) == (1 if width >= 120 else 2)


def test_page_says_what_this_machine_has():
    machine = MachineInfo(64 * GIB, 20 * GIB, 16 * GIB, 4, 4096)
    sentence = "This process may use 16.0 GiB of the machine's 64.0 GiB of memory, 20.0 GiB of them"
    assert page(16, 80, False, machine)[1].startswith(sentence)
    machine = MachineInfo(64 * GIB, 20 * GIB, None, 4, 4096)
    sentence = "This machine has 64.0 GiB of memory, 20.0 GiB of them free now"
    assert page(64, 80, False, machine)[1] == sentence


@pytest.mark.parametrize(
    ("first", "second", "bar"),
    [
        (0, 0, "              |      |      "),
        (5, 0, "#####         |      |      "),
        (10, 2, "##########==  |      |      "),
        (20, 1, "##############|#####=|      "),
        (28, 0, "##############|######|######"),
        (28, 1, "##############|######|#####>"),
    ],
)
def test_bar(first, second, bar):
    bars = Bars(28, (0.5, 0.75), 28)
    assert bars.draw(first, second, "green") == bar


@pytest.mark.parametrize(
    ("width", "line"),
    [(20, "      50 %|    |75 %"), (40, "                50 %|         |75 %  7 G")],
)
def test_ruler_names_the_marks_and_the_end_if_there_is_room(width, line):
    assert Bars(7, (0.5, 0.75), width).ruler("7 G") == line


def test_bar_ends_in_eighths_of_a_cell():
    bars = Bars(10, (0.7, 0.8), 10, TERMINAL)
    assert without_colors(bars.draw(2, 0, "red")) == "██     ││ "
    widths = [without_colors(bars.draw(n, 0, "red"))[0] for n in (0, 0.25, 0.5, 0.75, 1)]
    assert widths == [" ", "▎", "▌", "▊", "█"]


def test_answer_loads_no_numba():
    code = """
import sys
from cpumix.cli.main import main
try:
    main(["fit", "--no-probe", "--ram", "64G"])
except SystemExit as exit:
    assert exit.code == 0
assert not {"numba", "llvmlite", "sentencepiece", "jinja2"} & set(sys.modules)
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


def test_texts_at_once_count_with_their_context():
    def kv_bytes(*arguments):
        result = CliRunner().invoke(main, ["fit", "--ram", "64G", "--no-probe", *arguments])
        return result

    one, eight = (kv_bytes("--json", "--parallel", n) for n in ("1", "8"))
    plans = [json.loads(result.stdout) for result in (one, eight)]
    assert [plan["parallel"] for plan in plans] == [1, 8]
    sizes = [plan["rows"][0]["kv_bytes"] for plan in plans]
    assert sizes[1] == 8 * sizes[0]
    assert "context 4096 for each of 8 texts: 46.7 billion" in kv_bytes("--parallel", "8").stdout
