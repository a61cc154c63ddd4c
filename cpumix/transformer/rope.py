"""Rotary position embedding (RoPE): the angles by which queries and keys are rotated.

In float32 throughout, as the checkpoints' own code has it: at position 3000 a rounding there is
visible in the logits. Source of every kind of scaling:
https://github.com/huggingface/transformers/blob/0044e3b3facff1a1ad60b235c69d5b45beae75a4/src/transformers/modeling_rope_utils.py
(`truncate` of YaRN came later).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    RopeScaling,
    YarnScaling,
)

Floats = NDArray[np.float32]


class Frequencies(NamedTuple):
    """Inverse frequencies, and the attention factor that some scalings bring."""

    inv_freq: Floats
    """(head_dim / 2,) radians per position, of each pair of elements."""
    factor: float = 1.0
    """By which cos and sin are multiplied."""


def frequencies(config: ModelConfig, context: int) -> Frequencies:
    """Return the frequencies of a model in a context of so many positions.

    Only dynamic scaling depends on the context. transformers lets it grow with the text, so that
    what a token sees depends on how its text was cut; here it is the same from the first token on,
    that of a text that fills the context (vLLM fixes it likewise).
    """
    base, scaling = config.rope_theta, config.rope_scaling
    if isinstance(scaling, DynamicScaling):
        grown = max(context / config.max_position_embeddings, 1.0)
        power = config.head_dim / (config.head_dim - 2)
        base *= (scaling.factor * grown - (scaling.factor - 1)) ** power
    exponent = np.arange(0, config.head_dim, 2).astype(np.float32) / np.float32(config.head_dim)
    inv_freq = np.float32(1) / np.float32(base) ** exponent
    return _stretched(inv_freq, scaling, config.rope_theta)


def _stretched(inv_freq: Floats, scaling: RopeScaling | None, theta: float) -> Frequencies:
    match scaling:
        case Llama3Scaling():
            return Frequencies(_llama3(inv_freq, scaling))
        case LinearScaling():
            return Frequencies(inv_freq / np.float32(scaling.factor))
        case YarnScaling():
            return Frequencies(_yarn(inv_freq, scaling, theta), scaling.attention_factor)
    return Frequencies(inv_freq)


def _llama3(inv_freq: Floats, scaling: Llama3Scaling) -> Floats:
    wavelength = np.float32(2 * np.pi) / inv_freq
    longest = scaling.original_max_position_embeddings / scaling.low_freq_factor
    shortest = scaling.original_max_position_embeddings / scaling.high_freq_factor
    slow = np.where(wavelength > longest, inv_freq / np.float32(scaling.factor), inv_freq)
    smooth = scaling.original_max_position_embeddings / wavelength - scaling.low_freq_factor
    smooth /= scaling.high_freq_factor - scaling.low_freq_factor
    blend = (1 - smooth) * slow / scaling.factor + smooth * slow
    between = (wavelength >= shortest) & (wavelength <= longest)
    return np.where(between, blend, slow).astype(np.float32)


def _yarn(inv_freq: Floats, scaling: YarnScaling, theta: float) -> Floats:
    pairs = len(inv_freq)

    def pair_that_turns(times: float) -> float:
        """Return which pair turns so often in the trained context; a fraction, between pairs."""
        length = scaling.original_max_position_embeddings
        return pairs * math.log(length / (times * 2 * math.pi)) / math.log(theta)

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    if low == high:
        high += 0.001
    ramp = (np.arange(pairs, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    kept = 1 - np.clip(ramp, 0, 1)
    slowed = inv_freq / np.float32(scaling.factor)
    blend: Floats = slowed * (1 - kept) + inv_freq * kept
    return blend


def cos_sin(frequencies: Frequencies, positions: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return cos and sin (T, head_dim / 2) for positions (T,)."""
    angle = positions.astype(np.float32)[:, None] * frequencies.inv_freq
    if frequencies.factor == 1:
        return np.cos(angle), np.sin(angle)
    factor = np.float32(frequencies.factor)
    return np.cos(angle) * factor, np.sin(angle) * factor
