"""Finds how the weights of a folder are quantized: in its config.json, or in a file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..encodings import ENCODINGS
from ..files import read_json

# Before transformers knew these quantizers, they wrote a file of their own.
_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


class Quantization(NamedTuple):
    """An encoding of `ENCODINGS`, and its settings."""

    encoding: str
    settings: Mapping[str, Any]


def take_quantization(fields: dict[str, Any], folder: Path) -> Quantization:
    """Remove what cpumix knows about quantization from the fields of a config.json; return it.

    A method that it does not know stays in, for whoever reads the other fields to refuse.
    """
    given, config = fields.get("quantization"), fields.get("quantization_config")
    if isinstance(given, dict):  # MLX; the other is a copy of it
        fields.pop("quantization")
        fields.pop("quantization_config", None)
        return Quantization("mlx", given)
    if isinstance(config, dict):
        method = str(config.get("quant_method"))
        if method in ENCODINGS:
            return Quantization(method, fields.pop("quantization_config"))
    if config is None:
        for name, method in _FILES.items():
            if (folder / name).exists():
                return Quantization(method, read_json(folder / name))
    return Quantization("plain", {})
