"""Model files of random weights, made in a moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from checkpoints import write_checkpoint
from oracle_cases import LLAMA, MIXTRAL

import cpumix

CONFIGS: dict[str, dict[str, Any]] = {
    "moe": MIXTRAL,
    "dense": LLAMA,
    "window": MIXTRAL | {"sliding_window": 16},
    "odd": MIXTRAL
    | {
        "vocab_size": 389,
        "hidden_size": 68,
        "intermediate_size": 90,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
}


def write_source(folder: Path, config: Mapping[str, Any], **options: Any) -> Path:
    """Write a checkpoint of random weights, with a tokenizer; return its folder."""
    write_checkpoint(folder, config, seed=1, **options)
    return folder


def write_model(folder: Path, config: Mapping[str, Any], precision: str = "int8") -> Path:
    """Convert such a checkpoint; return the model file."""
    source = write_source(folder / "checkpoint", config)
    cpumix.convert(source, target := folder / f"{precision}.bin", precision)
    return target
