"""Tiny checkpoints whose matrices are quantized to 4 bits, as the tools that do it write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from checkpoints import MIXTRAL
from quantized_parts import stream, widen
from tiny_checkpoint import huggingface_names, make_weights

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


# What makes the parts of a matrix, the fields of config.json, and files beside it.
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


def quantized(form: str, config: Mapping[str, Any] = WIDE) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of a checkpoint, and what they stand for: float32 weights by name."""
    make = FORMS[form][0]
    tensors, weights, rng = {}, {}, np.random.Generator(np.random.PCG64(0))
    for name, bits in huggingface_names(make_weights(config, seed=0), fused=False).items():
        module = name.removesuffix(".weight")
        if not module.endswith(MODULES):
            tensors[name], weights[name] = bits, widen(bits)
            continue
        codes = rng.integers(0, 16, bits.shape)
        scale = rng.uniform(0.1, 1, len(bits)).astype(np.float16)
        weights[name] = (codes - 8).astype(F32) * scale[:, None].astype(F32)
        tensors |= {f"{module}.{part}": array for part, array in make(codes, scale).items()}
    return tensors, weights
