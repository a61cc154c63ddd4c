"""Opens a Hugging Face folder: everything that headers can tell is checked before the first weight.

A tensor that is missing, unknown, or of a shape or dtype we do not run is refused by the name it
has in the checkpoint. The weights themselves (NaN, infinity) are looked at while converting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cpumix.config import ModelConfig
from cpumix.errors import ConvertError

from . import naming
from .files import parse_object, read_file, read_json
from .safetensors import StoredTensor
from .shards import read_shards
from .tensor import RAW_TYPES, SourceTensor

TOKENIZERS = ("tokenizer.model", "tokenizer.json")
SIDE_FILES = (
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
ABSURD = 64  # times as many weights in the config as there are bytes


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint: `tensors` has exactly the names, shapes and order of the config's."""

    config: ModelConfig
    tensors: dict[str, SourceTensor]
    files: dict[str, bytes]
    """The tokenizer and what else travels with the weights, by file name."""

    @property
    def source_bytes(self) -> int:
        """Bytes of all weights, as they will be read."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def open_checkpoint(folder: Path | str) -> Checkpoint:
    """Open the folder of a Hugging Face checkpoint, reading headers and small files only.

    Raises ConvertError for a damaged or incomplete checkpoint, ConfigError for a model that
    cpumix does not run.
    """
    folder = Path(folder)
    stored = read_shards(folder)
    config = _read_config(folder)
    files = {name: read_file(folder / name) for name in SIDE_FILES if (folder / name).exists()}
    if not files.keys() & set(TOKENIZERS):
        raise ConvertError(
            f'tokenizer missing: expected {" or ".join(TOKENIZERS)} in "{folder}". '
            "Download it from where the weights come from."
        )
    if "generation_config.json" in files:
        config = _with_eos(config, files["generation_config.json"], folder)
    return Checkpoint(config, _match_tensors(config, stored, folder), files)


def _read_config(folder: Path) -> ModelConfig:
    path = folder / "config.json"
    if not path.exists():
        raise ConvertError(
            f'no config.json beside the weights in "{folder}". '
            "Download it from where they come from."
        )
    return ModelConfig.from_huggingface(read_json(path), str(path))


def _with_eos(config: ModelConfig, generation_config: bytes, folder: Path) -> ModelConfig:
    """Add the end tokens of generation_config.json, where chat models name theirs."""
    where = str(folder / "generation_config.json")
    eos: Any = parse_object(generation_config, where).get("eos_token_id")
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    for token in ids:
        if type(token) is not int or not 0 <= token < config.vocab_size:
            raise ConvertError(
                f"eos_token_id: expected tokens of the vocabulary of {config.vocab_size}, found "
                f'{token!r} in "{where}".'
            )
    return replace(config, eos_token_ids=tuple(dict.fromkeys([*config.eos_token_ids, *ids])))


def _match_tensors(
    config: ModelConfig, stored: Mapping[str, StoredTensor], folder: Path
) -> dict[str, SourceTensor]:
    """Find each of the model's tensors in the shards, and account for each of the shards'."""
    _refuse_absurd(config, stored, folder)
    table = naming.detect(stored, config.is_moe)
    tensors, used = {}, set()
    for name, shape in config.tensor_shapes().items():
        place = naming.place(table, name, shape, config.num_local_experts)
        source = stored.get(place.source_name)
        if source is None:
            raise ConvertError(
                f'tensor "{place.source_name}" is missing: expected it in a shard in "{folder}".'
            )
        _check(place, source)
        used.add(place.source_name)
        offset = source.offset + place.skip * RAW_TYPES[source.dtype].itemsize
        tensors[name] = SourceTensor(
            name, place.source_name, source.path, offset, shape, source.dtype
        )
    for name in sorted(stored.keys() - used):
        if not _is_ignored(name, config):
            raise ConvertError(
                f'tensor "{name}" is unknown: {config.architecture} has none of this name. '
                f'It lies in "{stored[name].path}".'
            )
    return tensors


def _refuse_absurd(config: ModelConfig, stored: Mapping[str, StoredTensor], folder: Path) -> None:
    """Stop before the names of a billion layers are listed; else a missing tensor gets its name."""
    matrices = 3 * config.num_hidden_layers * config.num_local_experts
    expected = matrices * config.intermediate_size * config.hidden_size
    found = sum(tensor.nbytes for tensor in stored.values())
    if expected > ABSURD * found:
        raise ConvertError(
            f"config.json describes {expected} weights in experts alone, but the shards have only "
            f'{found} bytes. Download config.json and all shards of one model into "{folder}".'
        )


def _check(place: naming.Place, source: StoredTensor) -> None:
    if source.dtype not in RAW_TYPES:
        raise ConvertError(
            f'tensor "{place.source_name}" has an unsupported dtype: expected '
            f'{", ".join(RAW_TYPES)}, found {source.dtype} in "{source.path}".'
        )
    if source.shape != place.source_shape:
        raise ConvertError(
            f'tensor "{place.source_name}": expected shape {place.source_shape} from config.json, '
            f'found {source.shape} in "{source.path}".'
        )


def _is_ignored(name: str, config: ModelConfig) -> bool:
    """Tell whether the model means the same without a tensor."""
    return (
        naming.BOOKKEEPING.fullmatch(name) is not None
        or (config.tie_word_embeddings and name == naming.SHARED["output.weight"])
        or (not config.is_moe and naming.ROUTER.fullmatch(name) is not None)  # one has no choice
    )
