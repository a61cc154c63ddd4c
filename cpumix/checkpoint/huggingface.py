"""Opens a folder as Hugging Face's transformers saves it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cpumix.config import ModelConfig
from cpumix.config.values import token_ids
from cpumix.errors import ConvertError

from .files import read_file, read_into, read_json, unreadable
from .names import EMBEDDING, HEAD, choose_naming, is_idle, is_stacked, source_name
from .safetensors import StoredTensor
from .shards import read_shards
from .tensor import DTYPES, SourceTensor

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
_COMPARED_BYTES = 8 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every name, shape, dtype and size has been checked."""

    config: ModelConfig
    tensors: dict[str, SourceTensor]
    """By canonical name, in the order of `ModelConfig.tensor_shapes`."""
    files: dict[str, bytes]
    """Side files by name, such as "tokenizer.model"."""
    source_bytes: int
    """Of the weights."""


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's side files and headers, and check that it is whole.

    Raises ConvertError for what is missing, damaged or superfluous, ConfigError for a model that
    cpumix does not run.
    """
    _check_folder(folder)
    config = ModelConfig.from_huggingface(
        read_json(folder / "config.json"), f'"{folder / "config.json"}"'
    )
    files = {name: read_file(folder / name) for name in SIDE_FILES if (folder / name).exists()}
    if not any(name in files for name in TOKENIZERS):
        raise ConvertError(
            f"tokenizer missing: expected {' or '.join(TOKENIZERS)}, found neither. "
            f'Download it to "{folder}".'
        )
    config = replace(config, eos_token_ids=_eos_token_ids(folder, config))
    stored = read_shards(folder)
    config = replace(config, tie_word_embeddings=_settle_head(config, stored))
    tensors = _match(config, stored, folder)
    return Checkpoint(config, tensors, files, sum(t.nbytes for t in tensors.values()))


def _check_folder(folder: Path) -> None:
    try:
        exists, is_folder = folder.exists(), folder.is_dir()
        has_config = is_folder and (folder / "config.json").exists()
    except OSError as e:
        raise unreadable(folder, e) from e
    if not exists:
        raise ConvertError(
            f'checkpoint: expected a folder, found nothing at "{folder}". Check the path.'
        )
    if not is_folder:
        raise ConvertError(
            "checkpoint: expected a folder with config.json and *.safetensors, "
            f'found a file at "{folder}". Name the folder around it.'
        )
    if not has_config:
        raise ConvertError(
            "checkpoint: expected config.json beside the weights, "
            f'found none in "{folder}". Name the folder of a Hugging Face checkpoint.'
        )


def _eos_token_ids(folder: Path, config: ModelConfig) -> tuple[int, ...]:
    """Return what ends a text: what generation_config.json says, else what config.json says."""
    path = folder / "generation_config.json"
    found = read_json(path).get("eos_token_id") if path.exists() else None
    if found is None:
        return config.eos_token_ids
    return token_ids(found, "eos_token_id", f'"{path}"', config.vocab_size)


def _settle_head(config: ModelConfig, stored: dict[str, StoredTensor]) -> bool:
    """Return whether the head is the embedding, and leave only one of the two if so.

    As in transformers, tie_word_embeddings holds unless both are there with different values, and
    either of them may be the one that was saved.
    """
    if not config.tie_word_embeddings:
        return False
    if HEAD in stored:
        if EMBEDDING in stored and not _same_bytes(stored[EMBEDDING], stored[HEAD]):
            return False
        stored.setdefault(EMBEDDING, stored.pop(HEAD))
    return True


def _same_bytes(a: StoredTensor, b: StoredTensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    for start in range(0, a.nbytes, _COMPARED_BYTES):
        length = min(_COMPARED_BYTES, a.nbytes - start)
        pieces = bytearray(length), bytearray(length)
        for tensor, piece in zip((a, b), pieces, strict=True):
            read_into(tensor.path, tensor.offset + start, memoryview(piece))
        if pieces[0] != pieces[1]:
            return False
    return True


def _match(
    config: ModelConfig, stored: dict[str, StoredTensor], folder: Path
) -> dict[str, SourceTensor]:
    """Return every tensor that a model needs, in order. Raises ConvertError for the first fault."""
    naming = choose_naming(stored, config.architecture)
    shapes = config.tensor_shapes()
    wanted: dict[str, list[str]] = {}  # source name to the canonical ones of its parts, in order
    for name in shapes:
        wanted.setdefault(source_name(name, naming), []).append(name)
    for source, tensor in stored.items():
        if source not in wanted and not is_idle(source, naming, config.is_moe):
            raise ConvertError(
                f'tensor "{source}": a name unknown to a {config.architecture} of '
                f"{config.num_hidden_layers} layers and {config.num_local_experts} experts. "
                f'Compare config.json with the shard "{tensor.path}".'
            )
    missing = [source for source in wanted if source not in stored]
    if missing:
        raise ConvertError(
            f'tensor "{missing[0]}": expected it in a shard, found it in none'
            + (f", nor {len(missing) - 1} others. " if len(missing) > 1 else ". ")
            + f'Download all shards to "{folder}".'
        )
    found = {}
    for source, names in wanted.items():
        for part in _split(source, stored[source], names, shapes[names[0]], config):
            found[part.name] = part
    return {name: found[name] for name in shapes}


def _split(
    source: str,
    stored: StoredTensor,
    names: list[str],
    shape: tuple[int, ...],
    config: ModelConfig,
) -> Iterator[SourceTensor]:
    """Yield the parts of a stored tensor, all of one shape, one after the other."""
    expected = shape
    if is_stacked(source):
        experts = config.num_local_experts
        expected = (experts, len(names) // experts * shape[0], shape[1])
    if stored.shape != expected:
        raise ConvertError(
            f'tensor "{source}": expected shape {expected} by config.json, found {stored.shape}. '
            f'Shard "{stored.path}".'
        )
    if stored.dtype not in DTYPES:
        raise ConvertError(
            f'tensor "{source}": expected dtype {" or ".join(DTYPES)}, found {stored.dtype}. '
            f'Convert a checkpoint that is not quantized. Shard "{stored.path}".'
        )
    step = stored.nbytes // len(names)
    for i, name in enumerate(names):
        yield SourceTensor(name, source, stored.path, stored.offset + i * step, shape, stored.dtype)
