"""`cpumix inspect` and `cpumix verify` on small model files."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from model_files import CONFIG, FILES, write

from cpumix.cli.main import main


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "tiny.bin")


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_inspect_prints_what_is_there(model):
    result = invoke("inspect", model)
    assert result.exit_code == 0
    first, *rest = result.stdout.splitlines()
    assert first.startswith(f"{model}: int4, ")
    assert any("6 tensors in q4" in line for line in rest)  # 2 layers of 3 experts
    assert any("256 bytes  tokenizer.model" in line for line in rest)
    assert any(line.split() == ["hidden_size", "40"] for line in rest)


def test_inspect_prints_json(model):
    facts = json.loads(invoke("inspect", model, "--json").stdout)
    assert facts["path"] == str(model)
    assert facts["precision"] == "int4"
    assert facts["file_bytes"] == model.stat().st_size
    assert facts["formats"]["q4"]["tensors"] == 6
    assert facts["files"] == {name: len(data) for name, data in FILES.items()}
    assert facts["config"] == json.loads(CONFIG.to_json())


def test_verify_of_a_good_file(model):
    result = invoke("verify", model)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{model}: 23 tensors, all as they were written\n"


def test_verify_of_a_damaged_file(model):
    data = bytearray(model.read_bytes())
    data[-16384] ^= 1  # the last expert's first byte
    model.write_bytes(data)
    result = invoke("verify", model)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("cpumix: error: ")
    assert 'checksum of "blk.1.expert.2"' in result.stderr


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_no_such_file(command, tmp_path):
    result = invoke(command, tmp_path / "none.bin")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No such file or directory" in result.stderr
    assert result.stderr.count("\n") == 1
