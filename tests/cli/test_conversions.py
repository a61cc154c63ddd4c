"""Running a checkpoint: what to type is said, or it is converted once into the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from checkpoints import LLAMA, write_checkpoint
from click.testing import CliRunner

import cpumix
from cpumix import cache_dir
from cpumix.cli.conversions import model_file
from cpumix.cli.main import main
from cpumix.errors import ConvertError
from cpumix.store import ModelFile

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint whose name a shell would take apart."""
    write_checkpoint(tmp_path / "a model", LLAMA | {"vocab_size": 300})
    return tmp_path / "a model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache_dir, "cache_roots", lambda: [tmp_path / "cache"])
    return tmp_path / "cache" / "models"


def test_run_says_what_to_type(folder: Path) -> None:
    result = CliRunner().invoke(main, ["run", str(folder), "-p", "x"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"Type: cpumix convert '{folder}' a_model.bin - or use --convert" in result.stderr


def test_checkpoint_is_converted_once(folder: Path, cache: Path) -> None:
    first = model_file(folder, True, None)
    assert first is not None and first.parent == cache
    with ModelFile(first) as file:
        assert file.config.architecture == "LlamaForCausalLM"
    made = first.stat().st_ino
    again = model_file(folder, True, None)
    assert again == first and first.stat().st_ino == made
    os.utime(folder / "model.safetensors", (1, 1))
    assert model_file(folder, True, None) != first
    assert len(list(cache.iterdir())) == 2


def test_gguf_file_is_a_checkpoint_and_a_model_file_is_none(folder: Path, cache: Path) -> None:
    model = folder.parent / "m.bin"
    cpumix.convert(folder, model, "int8")
    cpumix.export(model, folder.parent / "m.gguf")
    assert model_file(model, False, None) == model
    assert model_file(None, True, None) is None
    with pytest.raises(ConvertError, match=r"a checkpoint, which is converted once before it runs"):
        model_file(folder.parent / "m.gguf", False, None)
    converted = model_file(folder.parent / "m.gguf", True, None)
    assert converted is not None and converted.name.startswith("m-")
    missing = folder.parent / "none.bin"
    assert model_file(missing, True, None) == missing  # who opens it says that it is not there


def test_cache_folder_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache_dir, "cache_roots", lambda: [tmp_path / "file"])
    with pytest.raises(ConvertError, match="expected one that only this user can write"):
        model_file(folder, True, None)
