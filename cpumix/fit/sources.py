"""Finds the shape of a model in whatever the user points at; reads headers, never weights."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import read_config
from ..checkpoint.sources.huggingface import from_fields
from ..checkpoint.sources.mistral import from_params
from ..config import ModelConfig
from ..errors import ConfigError
from ..quant.precision import Precision
from ..store import gguf
from ..store.reader import ModelFile
from .known_models import DEFAULT, NAMES, known_model


@dataclass(frozen=True)
class Source:
    """A model to plan."""

    name: str
    config: ModelConfig
    path: Path | None = None  # what was read: a checkpoint's folder, or a file
    precision: Precision | None = None  # of a model file, which has just this one
    header_bytes: int = 0  # of a model file: what it holds besides tensors

    @property
    def is_checkpoint(self) -> bool:
        """Whether `cpumix convert` can take it."""
        return self.path is not None and self.path.is_dir()


def open_source(text: str | None) -> Source:
    """Return the model that `text` stands for: a path, or a name in `models.NAMES`.

    Raises ConfigError, or FormatError for a damaged file.
    """
    if text is None:
        return Source(DEFAULT, known_model(DEFAULT))
    path = Path(text)
    if path.is_dir():
        return Source(path.resolve().name, read_config(path), path)
    if path.is_file():
        return _read_file(path)
    if text.lower() in NAMES:
        return Source(text.lower(), known_model(text.lower()))
    raise ConfigError(
        f"source: expected a checkpoint folder, a model file, a config.json or one of "
        f'{", ".join(NAMES)}, found no such thing: "{text}".'
    )


def _read_file(path: Path) -> Source:
    try:
        with open(path, "rb") as stream:
            is_gguf = stream.read(4) == gguf.MAGIC
    except OSError as e:
        raise ConfigError(f'source: cannot be read: {e.strerror or e}: "{path}".') from e
    if not is_gguf:
        folder = path.resolve().parent
        name = folder.name if path.name in ("config.json", "params.json") else path.stem
        return Source(name, _read_json(path), path)
    with open(path, "rb", buffering=1 << 20) as stream:
        header = gguf.parse_header(stream, os.fstat(stream.fileno()).st_size, str(path))
    if "cpumix.format_version" not in header.metadata:
        return Source(path.stem, _from_gguf(header, path), path)
    with ModelFile(path) as file:
        tensors = sum(gguf.align(t.nbytes, header.alignment) for t in file.tensors.values())
        return Source(path.stem, file.config, path, file.formats, file.mapped_bytes - tensors)


def _read_json(path: Path) -> ModelConfig:
    try:
        found = json.loads(path.read_bytes())
    except OSError as e:
        raise ConfigError(f'source: cannot be read: {e.strerror or e}: "{path}".') from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f'source: expected JSON or GGUF, found something else: "{path}".') from e
    if not isinstance(found, dict):
        raise ConfigError(f'source: expected a JSON object, found another value: "{path}".')
    if "dim" in found and "hidden_size" not in found:
        return from_params(found, str(path))
    return from_fields(found, str(path))


def _from_gguf(header: gguf.Header, path: Path) -> ModelConfig:
    """Read the metadata of another program's GGUF file."""
    kind = header.metadata.get("general.architecture")
    if kind not in ("llama", "mistral", "mixtral"):
        raise ConfigError(
            f"general.architecture: cpumix runs Mixtral, Mistral and Llama models, found "
            f'"{kind}" in "{path}".'
        )

    def value(name: str) -> Any:
        return header.metadata.get(f"{kind}.{name}")

    def needed(name: str) -> Any:
        if value(name) is None:
            raise ConfigError(f'"{path}": expected the GGUF key {kind}.{name}, found none.')
        return value(name)

    tensors = {tensor.name: tensor for tensor in header.tensors}
    embedding = tensors.get("token_embd.weight")
    fields = {
        "hidden_size": needed("embedding_length"),
        "intermediate_size": needed("feed_forward_length"),
        "num_hidden_layers": needed("block_count"),
        "num_attention_heads": needed("attention.head_count"),
        "num_key_value_heads": value("attention.head_count_kv"),
        "head_dim": value("attention.key_length"),
        "vocab_size": embedding.shape[0] if embedding else needed("vocab_size"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "rope_theta": value("rope.freq_base"),
        "sliding_window": value("attention.sliding_window"),
        "max_position_embeddings": needed("context_length"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    if (experts := value("expert_count") or 0) > 1:
        fields |= {
            "num_local_experts": experts,
            "num_experts_per_tok": needed("expert_used_count"),
        }
    return _build(fields, f'"{path}"')


def _build(fields: dict[str, Any], where: str) -> ModelConfig:
    """Return the config of a model by Hugging Face's names, absent where None."""
    mixed = "num_local_experts" in fields
    kind = "MixtralForCausalLM" if mixed else "MistralForCausalLM"
    known = {name: value for name, value in fields.items() if value is not None}
    defaults = {"architectures": [kind], "sliding_window": None, "bos_token_id": 1}
    if "num_key_value_heads" not in known:
        defaults["num_key_value_heads"] = known["num_attention_heads"]
    return ModelConfig.from_huggingface(defaults | known, where)
