"""Losses that a calibrated file has recorded of its own matrices, and mixes composed by them."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoints import MIXTRAL, write_checkpoint

import cpumix
from cpumix.errors import ConfigError
from cpumix.memory.mixing import DENSE_FORMATS, EXPERT_FORMATS, compose
from cpumix.memory.own_losses import SCALED_BY, read_losses
from cpumix.quant.sensitivity import MEASURED
from cpumix.store import ModelFile

pytestmark = pytest.mark.slow  # a calibration
SIZES = {"vocab_size": 300, "hidden_size": 128, "intermediate_size": 256}
HELDOUT = Path(__file__).parents[1] / "data" / "heldout.txt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("losses")
    config = MIXTRAL | SIZES | {"max_position_embeddings": 64}
    write_checkpoint(folder / "hf", config)
    options = {"calibrate": HELDOUT, "calibration_tokens": 1024}
    cpumix.convert(folder / "hf", folder / "calibrated.bin", "int4", **options)
    cpumix.convert(folder / "hf", folder / "plain.bin", "int4")
    return folder


def test_losses_are_there_for_every_group_and_fall_with_bits(folder: Path) -> None:
    with ModelFile(folder / "calibrated.bin") as file:
        config = file.config
    own = read_losses(folder / "calibrated.bin", config)
    assert len(own.layers) == config.num_hidden_layers
    for layer in own.layers:
        for part in (layer.gate_up, layer.down):
            losses = [part[kind] for kind in EXPERT_FORMATS]
            assert losses == sorted(losses, reverse=True)
            assert losses[0] > 4 * losses[-1] > 0
    for part in (own.head, own.embedding, *(layer.attention for layer in own.layers)):
        assert part["q6"] > part["q8"] > 0
        assert set(part) == set(DENSE_FORMATS)
    totals = [
        sum(layer.gate_up[SCALED_BY] + layer.down[SCALED_BY] for layer in some.layers)
        for some in (own, MEASURED)
    ]
    assert totals[0] == pytest.approx(totals[1])


def test_a_mix_is_composed_by_them(folder: Path) -> None:
    source, losses = folder / "hf", folder / "calibrated.bin"
    cpumix.convert(source, folder / "own.bin", "mix-7", losses_of=losses, force=True)
    with ModelFile(folder / "own.bin") as file:
        expected = compose(file.config, 7.0, read_losses(losses, file.config))
        assert expected.layers != compose(file.config, 7.0).layers
        assert file.formats.layers == expected.layers
        assert (file.formats.head, file.formats.embedding) == (expected.head, expected.embedding)
        assert file.precision == "mix-7"


def test_a_file_without_calibration_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="losses: expected a file that was calibrated, found"):
        cpumix.convert(folder / "hf", folder / "x.bin", "mix-7", losses_of=folder / "plain.bin")
    assert not (folder / "x.bin").exists()


def test_a_file_of_another_model_is_refused(folder: Path) -> None:
    write_checkpoint(folder / "other", MIXTRAL | SIZES | {"intermediate_size": 32})
    with pytest.raises(ConfigError, match="expected a file of the same model, found one of anothe"):
        cpumix.convert(
            folder / "other", folder / "x.bin", "mix-7", losses_of=folder / "calibrated.bin"
        )
