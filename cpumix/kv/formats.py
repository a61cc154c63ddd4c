"""How keys and values are kept, and how many bytes they take: arithmetic, for the planner too."""

from __future__ import annotations

import numpy as np

from cpumix.config import ModelConfig
from cpumix.errors import ConfigError
from cpumix.quant.kv import KV_BLOCK, KV_FORMATS
from cpumix.quant.precision import REFERENCE, Precision

SCALED = "int8"  # the format whose positions have scales
SCALE_BYTES = 2
UNLIMITED = 1 << 30  # the window of a model without one, in positions


def find_format(kv: str, precision: Precision) -> str:
    """Return the format that `kv` asks for, beside weights of this precision.

    "auto" is "f32" for unquantized weights (who wants exact numbers wants them throughout) and
    "f16" for the others. Raises ConfigError when `kv` is neither that nor in `KV_FORMATS`.
    """
    if kv == "auto":
        return "f32" if precision.name in ("bf16", REFERENCE.name) else "f16"
    if kv not in KV_FORMATS:
        raise ConfigError(f'KV cache: expected one of {", ".join(KV_FORMATS)}, found "{kv}".')
    return kv


def count_blocks(config: ModelConfig, tokens: int, chunk: int) -> int:
    """Return how many blocks a sequence of so many tokens holds at most at a time.

    With a sliding window, those that a chunk of `chunk` tokens can see: older ones are given back.
    """
    blocks = -(-tokens // KV_BLOCK)
    if config.sliding_window is not None:
        blocks = min(blocks, -(-(config.sliding_window + chunk) // KV_BLOCK) + 1)
    return blocks


def block_bytes(config: ModelConfig, kv: str) -> int:
    """Return the bytes of a block: KV_BLOCK positions of all layers."""
    width = -(-config.head_dim // 32) * 32
    per_head = (config.head_dim + width) * np.dtype(KV_FORMATS[kv]).itemsize
    if kv == SCALED:
        per_head += 2 * SCALE_BYTES
    return KV_BLOCK * config.num_hidden_layers * config.num_key_value_heads * per_head


def nbytes(config: ModelConfig, context: int, chunk: int, kv: str, parallel: int = 1) -> int:
    """Return the bytes of `parallel` sequences that fill their context."""
    return parallel * count_blocks(config, context, chunk) * block_bytes(config, kv)
