"""From the real tools' files to logits, where a checkout has them beside it.

Each folder has ref.npz: token ids, and the float32 logits that transformers gives for the values of
its tensors. Two steps, each with a bound of its own:

- With the values that we read, the forward pass in float64 (tests/support/reference.py) gives the
  reference's logits: the rounding of transformers' float32 is all that differs, 7e-7 at most.
- The model file of precision bf16 gives the logits of the values rounded to bfloat16. Where the
  checkpoint's values are bfloat16 already, they are the reference's own. Rounding others moves the
  logits by up to 3e-2 (an adapter that makes large weights), which no reader can help.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import reference
from numpy.typing import NDArray
from test_shared_checkpoints import ROOTS
from tiny_checkpoint import to_bf16, to_f32

import cpumix
from cpumix.checkpoint import Checkpoint, merge_adapter, open_checkpoint

pytestmark = pytest.mark.slow

FOLDERS = sorted(path.parent for root in ROOTS for path in root.glob("*/ref.npz"))
EXACT = 2e-4  # relative RMS; what the project asks of exact arithmetic


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").exists()


def source(folder: Path) -> Path:
    if is_adapter(folder):
        return folder.parent / "base" / "hf"
    files = sorted(folder.glob("*.gguf"))
    return files[0] if files else folder


@cache
def opened(folder: Path) -> Checkpoint:
    checkpoint = open_checkpoint(source(folder))
    return merge_adapter(checkpoint, folder) if is_adapter(folder) else checkpoint


def values(checkpoint: Checkpoint) -> dict[str, NDArray[np.float32]]:
    """Read every tensor as float32."""
    found = {}
    for name, tensor in checkpoint.tensors.items():
        rows = tensor.read_rows(0, tensor.shape[0])
        found[name] = to_f32(rows) if rows.dtype == np.uint16 else rows.astype(np.float32)
    return found


def expected(folder: Path) -> tuple[list[int], NDArray[np.int64], NDArray[np.float64]]:
    """Return token ids, the positions that have logits, and those."""
    with np.load(folder / "ref.npz") as file:
        ids = file["ids"].tolist()
        rows = file["rows"] if "rows" in file else np.arange(len(ids))
        return ids, rows, file["logits"].astype(np.float64)


def relative_rms(found: NDArray[np.floating], logits: NDArray[np.float64]) -> float:
    return float(np.sqrt(((found - logits) ** 2).mean() / (logits**2).mean()))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_logits_of_the_values(folder: Path) -> None:
    ids, rows, logits = expected(folder)
    checkpoint = opened(folder)
    found = reference.forward(checkpoint.config, values(checkpoint), ids)[rows]
    assert relative_rms(found, logits) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_logits_of_the_model_file(folder: Path, tmp_path: Path) -> None:
    ids, rows, logits = expected(folder)
    adapters = [(folder, 1.0)] if is_adapter(folder) else []
    cpumix.convert(source(folder), tmp_path / "model.bin", "bf16", lora=adapters)
    weights = values(opened(folder))
    rounded = {
        name: value if value.ndim == 1 or "router" in name else to_f32(to_bf16(value))
        for name, value in weights.items()
    }
    with cpumix.load(tmp_path / "model.bin", context=64, threads=2) as model:
        found = model.logits(ids)[rows]
    meant = reference.forward(opened(folder).config, rounded, ids)[rows]
    assert relative_rms(found, meant) < EXACT
    if all(np.array_equal(value, rounded[name]) for name, value in weights.items()):
        assert relative_rms(found, logits) < EXACT
    os.unlink(tmp_path / "model.bin")
