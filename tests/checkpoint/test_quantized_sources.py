"""Folders of quantized weights: config.json, or a file beside it, says which encoding they have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import MIXTRAL, write_checkpoint, write_shard
from quantized_parts import stream, widen
from tiny_checkpoint import huggingface_names, make_weights

from cpumix.checkpoint import open_checkpoint, read_config
from cpumix.errors import ConfigError, ConvertError

WIDE = MIXTRAL | {"hidden_size": 32, "intermediate_size": 32, "head_dim": 8}
MODULES = (".w1", ".w2", ".w3", "q_proj", "k_proj", "v_proj", "o_proj")
F32 = np.float32


def mlx(codes: Any, scale: Any) -> dict[str, Any]:
    rows = {"scales": scale[:, None], "biases": -8 * scale[:, None]}
    return {"weight": stream(codes, 4), **rows}


def gptq(codes: Any, scale: Any) -> dict[str, Any]:
    zeros = np.full((1, len(codes) // 8), 0x77777777, np.int32)
    return {
        "qweight": np.ascontiguousarray(stream(codes, 4, "<i4").T),
        "qzeros": zeros,
        "scales": scale[None],
        "bias": np.zeros(len(codes), np.float16),
    }


def awq(codes: Any, scale: Any) -> dict[str, Any]:
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    columns = np.ascontiguousarray(codes.T).reshape(codes.shape[1], -1, 8)[..., order]
    return {
        "qweight": stream(columns.reshape(codes.shape[1], -1), 4, "<i4"),
        "qzeros": np.full((1, len(codes) // 8), -0x77777778, np.int32),
        "scales": scale[None],
    }


def compressed(codes: Any, scale: Any) -> dict[str, Any]:
    shape = np.array(codes.shape, np.int64)
    packed = stream(codes, 4, "<i4")
    return {"weight_packed": packed, "weight_scale": scale[:, None], "weight_shape": shape}


FORMS: dict[str, tuple[Any, dict[str, Any], dict[str, dict[str, Any]]]] = {
    "mlx": (mlx, {"quantization": {"group_size": 32, "bits": 4}}, {}),
    "mlx-copy": (
        mlx,
        {
            "quantization": {"group_size": 32, "bits": 4},
            "quantization_config": {"group_size": 32, "bits": 4},
        },
        {},
    ),
    "gptq": (gptq, {"quantization_config": {"quant_method": "gptq", "bits": 4, "sym": True}}, {}),
    "gptq-file": (gptq, {}, {"quantize_config.json": {"bits": 4, "group_size": 32}}),
    "awq": (awq, {"quantization_config": {"quant_method": "awq", "bits": 4}}, {}),
    "awq-file": (awq, {}, {"quant_config.json": {"w_bit": 4, "q_group_size": 32}}),
    "compressed-tensors": (
        compressed,
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        {},
    ),
}


def write(folder: Path, form: str) -> dict[str, Any]:
    """Write a checkpoint of 4 bits; return its float32 weights by name."""
    make, fields, files = FORMS[form]
    write_checkpoint(folder, WIDE, **fields)
    tensors, weights, rng = {}, {}, np.random.Generator(np.random.PCG64(0))
    for name, bits in huggingface_names(make_weights(WIDE, seed=0), fused=False).items():
        module = name.removesuffix(".weight")
        if not module.endswith(MODULES):
            tensors[name], weights[name] = bits, widen(bits)
            continue
        codes = rng.integers(0, 16, bits.shape)
        scale = rng.uniform(0.1, 1, len(bits)).astype(np.float16)
        weights[name] = (codes - 8).astype(F32) * scale[:, None].astype(F32)
        tensors |= {f"{module}.{part}": array for part, array in make(codes, scale).items()}
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
    bias = np.zeros(16, F32)
    write_checkpoint(tmp_path, change={name: bias})
    open_checkpoint(tmp_path)
    bias[3] = 1e-3
    write_checkpoint(tmp_path, change={name: bias})
    with pytest.raises(ConvertError, match=f'tensor "{name}": a name unknown to a Mixtral'):
        open_checkpoint(tmp_path)
