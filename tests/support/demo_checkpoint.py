"""A checkpoint in the image of the one that the demo model was converted from.

The original's weights are too large to keep here; the demo model has them rounded to 8 bits, which
another rounding to 8 bits would not change. So every weight is moved by a random amount within its
rounding interval, where the original's was too. The result predicts text as well as the original
and, unlike the demo model itself, loses as much when it is quantized.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from checkpoints import write_checkpoint
from numpy.typing import NDArray
from tiny_checkpoint import to_bf16

from cpumix.config import ModelConfig
from cpumix.quant import FORMATS
from cpumix.store import ModelFile

BLOCK, LARGEST_CODE = 32, 127  # of the demo model's format, q8


def write_demo_checkpoint(folder: Path, demo_model: Path) -> Path:
    """Write config.json, weights and tokenizer; return the folder."""
    with ModelFile(demo_model) as file:
        weights = {name: to_bf16(value) for name, value in _tensors(file)}
        write_checkpoint(folder, _config(file.config), weights=weights)
        for name, data in file.files.items():
            (folder / name).write_bytes(data)
    return folder


def _tensors(file: ModelFile) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the weights as a checkpoint has them, by canonical name."""
    q8, shapes = FORMATS["q8"], {spec.name: spec.shape for spec in file.config.tensors()}
    for stored, entry in file.tensors.items():
        data, end = file.data(stored), 0
        if entry.format == "f32":
            yield stored, data.view(np.float32).reshape(entry.shape)
            continue
        for name, _ in entry.parts:
            n, k = shapes[name]
            start, end = end, end + q8.nbytes(n, k)
            tiles = data[start:end].reshape(n // 16, k // BLOCK, q8.tile_bytes)
            yield name, _unround(q8.dequantize(tiles, n, k), name)


def _unround(weights: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Add noise of half a step of the 8-bit code, the same on any machine."""
    blocks = weights.reshape(-1, BLOCK)
    step = np.abs(blocks).max(axis=1, keepdims=True) / LARGEST_CODE
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(blocks.size)
    noise = (raw >> np.uint64(40)).astype(np.float32) / 2**24 - np.float32(0.5)
    return (blocks + noise.reshape(blocks.shape) * step).reshape(weights.shape)


def _config(config: ModelConfig) -> dict[str, object]:
    """Write a model's config with transformers' names."""
    names = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads head_dim num_local_experts num_experts_per_tok "
        "max_position_embeddings rms_norm_eps rope_theta sliding_window tie_word_embeddings "
        "bos_token_id"
    )
    return {
        "architectures": [config.architecture],
        "model_type": "mixtral",
        "hidden_act": "silu",
        "eos_token_id": list(config.eos_token_ids),
        **{name: getattr(config, name) for name in names.split()},
    }
