"""The sampling parameters that a model asks for itself, in generation_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cpumix.errors import ConfigError

from .params import ALL, SamplingParams

NAMES = {  # theirs: ours
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repeat_penalty",
}
FILE = "generation_config.json"


def model_defaults(files: Mapping[str, bytes]) -> SamplingParams:
    """Return the defaults of a model with these files (by name), else llama.cpp's.

    Names that the file leaves out, or sets to null, keep their default. "do_sample": false asks for
    the likeliest token each time. Raises ConfigError for a file that does not hold what it should.
    """
    try:
        config = json.loads(files.get(FILE, b"{}"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{FILE}: expected JSON, found text that is none: {error}.") from error
    if not isinstance(config, dict):
        raise ConfigError(
            f"{FILE}: expected names with values, found {type(config).__name__}. Correct the file."
        )
    given: dict[str, Any] = {
        ours: config[theirs] for theirs, ours in NAMES.items() if config.get(theirs) is not None
    }
    if isinstance(given.get("top_k"), int):
        given["top_k"] = max(given["top_k"], 0)  # -1 means all, too
    if "repeat_penalty" in given:
        given["repeat_last_n"] = ALL  # transformers penalizes all tokens, not the last ones
    if config.get("do_sample") is False:
        given["temperature"] = 0.0
    try:
        return SamplingParams(**given)
    except ConfigError as error:
        raise ConfigError(f"{FILE}: {error} Correct the file.") from error
