"""A tiny model file, whole or wrong in one place, and the weights that a file has."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from configs import model_config
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.quant import FLOAT32, FORMATS
from cpumix.quant.precision import CODED
from cpumix.store import ModelFile, ModelWriter, TensorEntry, build_entries, build_metadata

CONFIG = model_config(
    vocab_size=50,
    hidden_size=40,
    intermediate_size=56,
    head_dim=12,
    num_local_experts=3,
    max_position_embeddings=128,
)
FILES = {
    "tokenizer.model": bytes(range(256)),
    "generation_config.json": b"{}",
    "chat_template.jinja": "{{ '日本' }}".encode(),
}
Entries = Sequence[TensorEntry]


def content(entry: TensorEntry) -> bytes:
    """Bytes that differ from tensor to tensor."""
    return np.random.default_rng(zlib.crc32(entry.name.encode())).bytes(entry.nbytes)


def write(
    path: Path,
    precision: str = CODED,
    change: Callable[[dict[str, Any]], Any] = lambda metadata: None,
    entries: Entries | None = None,
    config: ModelConfig = CONFIG,
) -> Path:
    """Write a whole model file, with changed metadata or other tensors than it should have."""
    metadata = build_metadata(config, precision, FILES, "tiny")
    change(metadata)
    entries = build_entries(config, precision) if entries is None else entries
    with ModelWriter(path, metadata, entries, force=True) as writer:
        for entry in entries:
            writer.write(entry.name, content(entry))
        writer.commit()
    return path


def with_(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata.update({key: value})


def stored_weights(file: ModelFile) -> dict[str, NDArray[np.float32]]:
    """Return all weights as the file has them, by canonical name."""
    weights, shapes = {}, {spec.name: spec.shape for spec in file.config.tensors()}
    for name, tensor in file.tensors.items():
        data, start = file.data(name), 0
        for part, name_of_format in tensor.parts:
            shape = shapes[part]
            if name_of_format == FLOAT32:
                weights[part] = data.view(np.float32).reshape(shape)
                continue
            kind = FORMATS[name_of_format]
            size = kind.nbytes(*shape)
            tiles = data[start : start + size].reshape(kind.shape(*shape))
            weights[part] = kind.dequantize(tiles, *shape)
            start += size
    return weights


def relative_error(
    found: NDArray[np.float32], expected: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return each token's relative RMS difference."""
    wrong = np.sqrt(np.mean((found - expected) ** 2, axis=-1))
    return wrong / np.sqrt(np.mean(expected**2, axis=-1))
