"""Picks the next token from its logits: `SamplingParams` says how, a `Sampler` does it."""

from .params import SamplingParams
from .sampler import Sampler

__all__ = ["Sampler", "SamplingParams"]
