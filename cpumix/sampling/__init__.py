"""Picks the next token from its logits: `SamplingParams` says how, a `Sampler` does it.

Modules are loaded when they are first used: the command line shows the parameters without NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .defaults import model_defaults as model_defaults
    from .log_probabilities import LogProbability as LogProbability
    from .params import SamplingParams as SamplingParams
    from .sampler import Sampler as Sampler
    from .stop import StopMatcher as StopMatcher

__all__ = ["LogProbability", "Sampler", "SamplingParams", "StopMatcher", "model_defaults"]

_HOMES = {
    "LogProbability": "log_probabilities",
    "Sampler": "sampler",
    "SamplingParams": "params",
    "StopMatcher": "stop",
    "model_defaults": "defaults",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cpumix.sampling' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
