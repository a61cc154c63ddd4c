"""Picks the next token from its logits: `SamplingParams` says how, a `Sampler` does it.

Modules are loaded when they are first used: the command line shows the parameters without NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpumix.lazy import names_in

if TYPE_CHECKING:
    from .defaults import model_defaults as model_defaults
    from .log_probabilities import LogProbability as LogProbability
    from .params import SamplingParams as SamplingParams
    from .sampler import Sampler as Sampler
    from .stop import StopMatcher as StopMatcher

__all__ = ["LogProbability", "Sampler", "SamplingParams", "StopMatcher", "model_defaults"]

__getattr__ = names_in(
    __name__,
    {
        "LogProbability": "log_probabilities",
        "Sampler": "sampler",
        "SamplingParams": "params",
        "StopMatcher": "stop",
        "model_defaults": "defaults",
    },
)
