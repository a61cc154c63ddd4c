"""Folders of quantized weights: config.json, or a file beside it, says which encoding they have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_checkpoint, write_shard
from quantized_parts import widen
from quantized_weights import FORMS, WIDE, quantized

from cpumix.checkpoint import open_checkpoint, read_config
from cpumix.errors import ConfigError, ConvertError


def write(folder: Path, form: str) -> dict[str, Any]:
    """Write a checkpoint of 4 bits; return its float32 weights by name."""
    fields, files = FORMS[form][1:]
    write_checkpoint(folder, WIDE, **fields)
    tensors, weights = quantized(form)
    write_shard(folder / "model.safetensors", tensors)
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))
    return weights


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor_of_a_folder(tmp_path: Path, form: str) -> None:
    weights = write(tmp_path, form)
    checkpoint = open_checkpoint(tmp_path)
    assert read_config(tmp_path) == checkpoint.config
    seen = set()
    for tensor in checkpoint.tensors.values():
        rows = tensor.read_rows(0, tensor.shape[0])
        rows = widen(rows) if rows.dtype == np.uint16 else rows
        assert np.allclose(rows, weights[tensor.source_name], rtol=1e-6), tensor.name
        seen.add(tensor.source_name)
    assert seen == weights.keys()


def test_unknown_quantizer_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, quantization_config={"quant_method": "aqlm"})
    with pytest.raises(ConfigError, match='as they were trained, found them quantized by "aqlm"'):
        open_checkpoint(tmp_path)


def test_bias_that_is_not_zero_is_refused(tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    bias = np.zeros(16, np.float32)
    write_checkpoint(tmp_path, change={name: bias})
    open_checkpoint(tmp_path)
    bias[3] = 1e-3
    write_checkpoint(tmp_path, change={name: bias})
    with pytest.raises(ConvertError, match=f'tensor "{name}": a name unknown to a Mixtral'):
        open_checkpoint(tmp_path)
