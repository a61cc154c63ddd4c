"""`cpumix verify`: damage, numbers that are none, and how far a conversion moved the weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LLAMA, MIXTRAL, write_checkpoint
from click.testing import CliRunner, Result
from tiny_checkpoint import to_f32

import cpumix
from cpumix.checkpoint import open_checkpoint
from cpumix.cli.main import main
from cpumix.errors import ConvertError, FormatError
from cpumix.quant import FLOAT32, FORMATS
from cpumix.store import ModelFile, ModelWriter, build_entries, build_metadata
from cpumix.verifier import compare, verify

pytestmark = pytest.mark.slow

CONFIG = MIXTRAL | {"vocab_size": 300, "hidden_size": 40, "intermediate_size": 56}


def make(folder: Path, precision: str, config: dict[str, Any] = CONFIG) -> dict[str, Any]:
    """Write a checkpoint and a model file of it; return the weights."""
    weights = write_checkpoint(folder / "hf", config)
    cpumix.convert(folder / "hf", folder / "m.bin", precision)
    return weights


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_differences_are_those_of_the_definitions(tmp_path: Path, precision: str) -> None:
    weights = make(tmp_path, precision)
    with ModelFile(tmp_path / "m.bin") as file:
        found, whole = compare(file, open_checkpoint(tmp_path / "hf"))
        specs = {spec.name: spec for spec in file.config.tensors()}
        formats = file.formats
    assert {d.name for d in found} == set(weights)
    squares = np.zeros(2)
    for d in found:
        kind, exact = formats.format(specs[d.name]), to_f32(weights[d.name]).astype(np.float64)
        assert (d.format, d.encoding) == (kind, "BF16")
        rounded = exact
        if kind != FLOAT32:
            tiles = FORMATS[kind].quantize(exact.astype(np.float32))
            rounded = FORMATS[kind].dequantize(tiles, *exact.shape)
        sums = np.array([((rounded - exact) ** 2).sum(), (exact**2).sum()])
        assert d.relative_rms == pytest.approx(np.sqrt(sums[0] / sums[1]), rel=1e-9)
        squares += sums
    assert whole == pytest.approx(np.sqrt(squares[0] / squares[1]), rel=1e-9)
    assert [d.relative_rms for d in found] == sorted((d.relative_rms for d in found), reverse=True)
    assert (whole == 0) == (precision == "bf16")


def test_large_tensors_are_compared_in_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "int4")
    with ModelFile(tmp_path / "m.bin") as file:
        checkpoint = open_checkpoint(tmp_path / "hf")
        found, whole = compare(file, checkpoint)
        monkeypatch.setattr("cpumix.verifier._SLICE_WEIGHTS", 1)
        seen: list[tuple[int, int]] = []
        again, also = compare(file, checkpoint, lambda done, total: seen.append((done, total)))
    assert also == pytest.approx(whole, rel=1e-9)
    for a, b in zip(found, again, strict=True):
        assert (a.name, a.relative_rms) == (b.name, pytest.approx(b.relative_rms, rel=1e-9))
    assert seen[-1][0] == seen[-1][1] and len(seen) == len(found)


def test_command_names_the_tensors_that_moved_most(tmp_path: Path) -> None:
    make(tmp_path, "int4")
    result = invoke(tmp_path / "m.bin", "--against", tmp_path / "hf")
    assert result.exit_code == 0, result.output
    first, second, *worst = result.stdout.splitlines()
    assert first.endswith("tensors, all as they were written")
    assert second.startswith(f"against {tmp_path / 'hf'}: relative RMS 0.0")
    assert len(worst) == 10 and all("q4s from BF16" in line for line in worst)
    facts = json.loads(invoke(tmp_path / "m.bin", "--against", tmp_path / "hf", "--json").stdout)
    assert len(facts["differences"]) == 2 * (7 + 4 * 3) + 3
    assert f"{facts['differences'][0]['relative_rms']:.2g}" == worst[0].split()[0]
    assert json.loads(invoke(tmp_path / "m.bin", "--json").stdout).keys() == {"path", "tensors"}


def test_command_says_that_nothing_was_moved(tmp_path: Path) -> None:
    make(tmp_path, "bf16")
    result = invoke(tmp_path / "m.bin", "--against", tmp_path / "hf")
    assert result.stdout.splitlines()[1:] == [f"against {tmp_path / 'hf'}: the same numbers"]


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "int8")
    write_checkpoint(tmp_path / "other", LLAMA | {"vocab_size": 300})
    with (
        ModelFile(tmp_path / "m.bin") as file,
        pytest.raises(
            ConvertError, match=r"with a tensor \"token_embd.weight\" of shape \(300, 40\)"
        ),
    ):
        compare(file, open_checkpoint(tmp_path / "other"))


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("role", ["output_norm.weight", "blk.1.attn_q.weight", "blk.1.expert.2"])
def test_numbers_that_are_none_are_named(tmp_path: Path, precision: str, role: str) -> None:
    """A file whose checksums are right, and which holds an infinite scale or a NaN."""
    make(tmp_path, precision)
    path = tmp_path / "nan.bin"
    with ModelFile(tmp_path / "m.bin") as file:
        entries = build_entries(file.config, precision)
        metadata = build_metadata(file.config, precision, file.files, "x")
        with ModelWriter(path, metadata, entries) as writer:
            for entry in entries:
                data = np.array(file.data(entry.name))
                if entry.name == role and entry.format == "q4s":  # a row scale of w2
                    scaling = FORMATS["q4s"].shape(*reversed(entry.shape[1:]))
                    data[-math.prod(scaling) :][:4] = np.frombuffer(b"\0\0\x80\x7f", np.uint8)
                elif entry.name == role:  # the end of a tile, of a bfloat16, of a float32
                    data[-2:] = np.frombuffer(
                        b"\x80\x7f" if entry.format in ("f32", "bf16") else b"\x00\x7c", np.uint8
                    )
                    assert precision != "bf16" or entry.format in ("f32", "bf16")
                writer.write(entry.name, data)
            writer.commit()
    name = f"{role}.w2" if "expert" in role else role
    with ModelFile(path) as damaged:
        damaged.verify()
        with pytest.raises(FormatError, match=f'tensor "{name}": expected finite numbers, found'):
            verify(damaged)


def test_command_on_a_good_file(tmp_path: Path) -> None:
    make(tmp_path, "int8")
    result = invoke(tmp_path / "m.bin")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{tmp_path / 'm.bin'}: 25 tensors, all as they were written\n"


def test_command_on_a_damaged_file(tmp_path: Path) -> None:
    make(tmp_path, "int8")
    data = bytearray((tmp_path / "m.bin").read_bytes())
    data[-16384] ^= 1  # the last expert's first byte
    (tmp_path / "m.bin").write_bytes(data)
    result = invoke(tmp_path / "m.bin")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("cpumix: error: ")
    assert 'checksum of "blk.1.expert.3"' in result.stderr
