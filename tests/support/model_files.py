"""A tiny model file, whole or wrong in one place."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cpumix.config import ModelConfig
from cpumix.store import ModelWriter, TensorEntry, build_entries, build_metadata

CONFIG = ModelConfig(
    architecture="MixtralForCausalLM",
    vocab_size=50,
    hidden_size=40,
    intermediate_size=56,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    num_local_experts=3,
    num_experts_per_tok=2,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    rope_theta=1e6,
    rope_scaling=None,
    sliding_window=None,
    tie_word_embeddings=False,
    bos_token_id=1,
    eos_token_ids=(2,),
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
    precision: str = "int4",
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
