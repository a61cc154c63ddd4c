"""The small files beside the weights that a model needs: its tokenizer and what belongs to it."""

from __future__ import annotations

from pathlib import Path

from cpumix.config import ModelConfig
from cpumix.config.values import token_ids
from cpumix.errors import ConvertError

from ..files import read_file, read_json

TOKENIZERS = ("tokenizer.model", "tokenizer.json")
_NAMES = (
    *TOKENIZERS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def read_present(folder: Path) -> dict[str, bytes]:
    """Return those side files that a folder has."""
    return {name: read_file(folder / name) for name in _NAMES if (folder / name).exists()}


def read_side_files(folder: Path) -> dict[str, bytes]:
    """Return a folder's side files by name. Raises ConvertError without a tokenizer."""
    files = read_present(folder)
    if not any(name in files for name in TOKENIZERS):
        raise ConvertError(
            f"tokenizer missing: expected {' or '.join(TOKENIZERS)}, found neither. "
            f'Download it to "{folder}".'
        )
    return files


def read_eos_token_ids(folder: Path, config: ModelConfig) -> tuple[int, ...]:
    """Return what ends a text: what generation_config.json says, else what `config` says."""
    path = folder / "generation_config.json"
    found = read_json(path).get("eos_token_id") if path.exists() else None
    if found is None:
        return config.eos_token_ids
    return token_ids(found, "eos_token_id", f'"{path}"', config.vocab_size)
