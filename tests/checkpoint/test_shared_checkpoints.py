"""Checkpoints that the real tools made, where a checkout has them beside it: every value.

Each folder has tensors.json: shape and SHA-256 of each tensor's float32 values, under the names of
transformers 4. All encodings here are definitions in float32, so they are equal bit for bit.
Logits are held to the tools' in test_logits.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import huggingface_names, to_f32

from cpumix.checkpoint import open_checkpoint

ROOTS = [
    Path(__file__).parents[2].parent / "shared" / "checkpoints",
    Path(os.environ.get("CPUMIX_TEST_CHECKPOINTS", "/nonexistent")),  # what make/ in there writes
]
FOLDERS = sorted(
    path.parent
    for root in ROOTS
    for path in root.glob("*/tensors.json")
    if not path.parent.name.startswith("peft")
)


def transformers_names(tensors: Iterable[str]) -> dict[str, str]:
    """Return the canonical name of each tensor by its name in transformers 4."""
    canonical = list(tensors)
    places = {name: np.array([i]) for i, name in enumerate(canonical)}
    return {
        name: canonical[place[0]] for name, place in huggingface_names(places, fused=False).items()
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_every_value_is_that_of_the_tool(folder: Path) -> None:
    expected = json.loads((folder / "tensors.json").read_text())
    tensors = open_checkpoint(folder).tensors
    names = transformers_names(tensors)
    assert names.keys() == expected.keys()
    for name, canonical in names.items():
        tensor = tensors[canonical]
        digest = hashlib.sha256()
        for start in range(0, tensor.shape[0], 48):
            rows = tensor.read_rows(start, min(start + 48, tensor.shape[0]))
            wide = to_f32(rows) if rows.dtype == np.uint16 else rows.astype(np.float32)
            digest.update(np.ascontiguousarray(wide).tobytes())
        assert list(tensor.shape) == expected[name]["shape"]
        assert digest.hexdigest() == expected[name]["sha256_f32le"], name
