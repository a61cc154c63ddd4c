"""Rotary position embedding: the angles by which queries and keys turn with their position."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cpumix.config import ModelConfig

Floats = NDArray[np.float32]


def frequencies(config: ModelConfig) -> Floats:
    """Return the turns per position of each pair of elements (head_dim / 2,), in radians.

    In float32 throughout, as the checkpoints' own code has it: at position 3000 a rounding there is
    visible in the logits. Source: Hugging Face modeling_rope_utils, kinds default and llama3.
    """
    exponent = np.arange(0, config.head_dim, 2).astype(np.float32) / np.float32(config.head_dim)
    inverse = np.float32(1) / np.float32(config.rope_theta) ** exponent
    scaling = config.rope_scaling
    if scaling is None:
        return inverse
    wavelength = np.float32(2 * np.pi) / inverse
    longest = scaling.original_max_position_embeddings / scaling.low_freq_factor
    shortest = scaling.original_max_position_embeddings / scaling.high_freq_factor
    slow = np.where(wavelength > longest, inverse / np.float32(scaling.factor), inverse)
    smooth = scaling.original_max_position_embeddings / wavelength - scaling.low_freq_factor
    smooth /= scaling.high_freq_factor - scaling.low_freq_factor
    blend = (1 - smooth) * slow / scaling.factor + smooth * slow
    between = (wavelength >= shortest) & (wavelength <= longest)
    return np.where(between, blend, slow).astype(np.float32)


def cos_sin(inverse: Floats, first: int, count: int) -> tuple[Floats, Floats]:
    """Return cos and sin (count, head_dim / 2) for positions first, first + 1, ..."""
    angle = np.arange(first, first + count).astype(np.float32)[:, None] * inverse
    return np.cos(angle), np.sin(angle)
