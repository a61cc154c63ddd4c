"""A folder as transformers saves it: config.json, shards, tokenizer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cpumix.config import ModelConfig, without_fields
from cpumix.errors import ConfigError, ConvertError, quoted

from ..encodings import assemble
from ..files import read_json
from ..head import Heads
from ..namings.huggingface import namings
from ..shards import ShardNames, read_shards
from ..tensor import Contents
from .quantization import Quantization, take_quantization
from .side_files import read_eos_token_ids, read_side_files

CONFIG = "config.json"
# Without these a config means Mixtral 8x7B's, whatever it is.
_NEEDED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)
# Mistral's own names and LoRA lie in the same folders.
SAFETENSORS = ShardNames(
    "*.safetensors",
    index_name="model.safetensors.index.json",
    single="model.safetensors",
    others=("consolidated", "adapter"),
)
PYTORCH = ShardNames(
    "*.bin",
    index_name="pytorch_model.bin.index.json",
    single="pytorch_model.bin",
    others=("training_args", "optimizer", "scheduler", "adapter", "random_states", "non_lora"),
)
SHARDS = (SAFETENSORS, PYTORCH)  # in this order: many folders have the same weights twice


def claims(path: Path, heads: Heads) -> bool:
    """Whether this is a folder of transformers."""
    return (path / CONFIG).exists()


def read_config(path: Path, ignored: Collection[str] = ()) -> ModelConfig:
    """Return the model that a folder's config.json describes."""
    return _read_config(path, ignored)[0]


def read_files(path: Path) -> dict[str, bytes]:
    """Return a folder's side files."""
    return read_side_files(path).files


def read(path: Path, ignored: Collection[str], heads: Heads) -> Contents:
    """Return what a folder holds."""
    config, quantization = _read_config(path, ignored)
    side = read_side_files(path)
    config = replace(config, eos_token_ids=read_eos_token_ids(path, config))
    kind = next((kind for kind in SHARDS if kind.exists(path, heads)), None)
    if kind is None:
        raise _weights_missing(path)
    matrices = assemble(read_shards(path, kind, heads), *quantization)
    return Contents(path, config, matrices, namings(config.family), *side)


def from_fields(fields: Mapping[str, Any], where: str) -> ModelConfig:
    """Return the model that the fields of a config.json describe. `where` names it in errors."""
    missing = [name for name in _NEEDED if name not in fields]
    if missing:
        raise ConfigError(
            f"{where}: expected the fields of a config.json, found no {', '.join(missing)}."
        )
    return ModelConfig.from_huggingface(fields, where)


def _read_config(path: Path, ignored: Collection[str]) -> tuple[ModelConfig, Quantization]:
    """Return the model, and how its weights are quantized."""
    fields = read_json(path / CONFIG)
    fields = without_fields(fields, ignored, f'"{path / CONFIG}"')
    quantization = take_quantization(fields, path)
    return from_fields(fields, f'"{path / CONFIG}"'), quantization


def _weights_missing(folder: Path) -> ConvertError:
    kinds = ("*.pth", "*.pt", "*.npz", "*.h5", "*.msgpack", "*.onnx")
    others = sorted(path.name for kind in kinds for path in folder.glob(kind))
    found = f"only others, such as {quoted(others[0])}" if others else "none"
    return ConvertError(
        f'weights: expected *.safetensors or pytorch_model*.bin, found {found} in "{folder}". '
        "Download them there."
    )
