"""The tool that times conversions: the checkpoints that it makes, and its table."""

from __future__ import annotations

import measure_conversion
import pytest
from click.testing import CliRunner
from measure_conversion import FORMS, PLAIN, Taken, convert, main, table

import cpumix

pytestmark = pytest.mark.slow

SMALL = ("--hidden", "512", "--intermediate", "512", "--vocab", "512")


def test_it_makes_every_encoding_and_measures_each_in_turn(tmp_path, monkeypatch):
    encodings, asked = {}, []

    def stand_in(source, target, precision):
        asked.append(source.name)
        if source.name not in encodings:
            report = cpumix.convert(source, target, precision, force=True)
            encodings[source.name] = {loss.encoding for loss in report.losses}
        return Taken(2.0, 3.0, 10**8) if source.name == "awq" else Taken(1.0, 1.0, 10**6)

    monkeypatch.setattr(measure_conversion, "convert", stand_in)
    also = ["--also", f"again={tmp_path / PLAIN}", "--rounds", "1"]
    done = CliRunner().invoke(main, [str(tmp_path), *SMALL, *also])
    assert done.exit_code == 0, done.stderr
    names = [PLAIN, *FORMS, PLAIN]
    assert asked == names + names
    assert {name: found - {"F16", "F32"} for name, found in encodings.items()} == {
        PLAIN: {"BF16"},
        "gptq": {"GPTQ 4 bits"},
        "gptq-act-order": {"GPTQ 4 bits"},
        "awq": {"AWQ 4 bits"},
        "compressed-tensors": {"compressed-tensors 4 bits"},
        "bnb-nf4": {"bitsandbytes nf4"},
        "mlx": {"MLX 4 bits"},
        "hqq": {"HQQ 4 bits"},
    }
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["awq", "2.0", "2.00x", "3.0", "3.00x", "100"] in lines
    assert [line[0] for line in lines[-9:]] == [PLAIN, *FORMS, "again"]


def test_medians_are_of_the_rounds_ratios():
    plain = [Taken(1.0, 1.0, 10**6), Taken(2.0, 4.0, 10**6), Taken(1.0, 2.0, 10**6)]
    other = [Taken(2.0, 1.0, 10**6), Taken(3.0, 8.0, 9 * 10**6), Taken(1.0, 2.0, 10**6)]
    last = list(table({PLAIN: plain, "other": other}))[-1].split()
    assert last == ["other", "2.0", "1.50x", "2.0", "1.00x", "9"]


def test_one_real_conversion(checkpoint_folder, tmp_path):
    taken = convert(checkpoint_folder, tmp_path / "model.bin", "int8")
    assert taken.seconds > 0 and taken.processor_seconds > 0
    assert 20e6 < taken.peak_bytes < 2e9
    assert (tmp_path / "model.bin").exists()


def test_failure_is_told(tmp_path):
    (tmp_path / PLAIN).mkdir()
    done = CliRunner().invoke(main, [str(tmp_path), "--also", "x=y", "--encoding", "awq", *SMALL])
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: {PLAIN}: cpumix: error:")
