"""The small files beside the weights that a model needs: its tokenizer and what belongs to it."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from cpumix.config import ModelConfig
from cpumix.config.values import token_ids
from cpumix.errors import ConvertError

from ..files import read_file, read_json

# By pattern; a number as in tokenizer.model.v3 says how Mistral's models write conversations.
_TOKENIZERS = ("tokenizer.model", "tokenizer.model.v*", "tokenizer.json", "tekken.json")
_OTHERS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
    "1_Pooling/config.json",  # of Sentence Transformers
)


# Beside one of these the other tokenizers are not looked at.
_FIRST_TOKENIZERS = {"tokenizer.model", "tokenizer.json"}


class PresentFiles(NamedTuple):
    """Side files by their paths in the folder."""

    files: dict[str, bytes]
    notes: tuple[str, ...]
    """A sentence for each that could not be read and was left out."""


def find_present(folder: Path) -> list[str]:
    """Return the side files that a folder has, by their paths in it."""
    paths = [path for pattern in (*_TOKENIZERS, *_OTHERS) for path in sorted(folder.glob(pattern))]
    return [path.relative_to(folder).as_posix() for path in paths]


def read_present(folder: Path, names: Iterable[str]) -> PresentFiles:
    """Read some of the side files that a folder has.

    Raises ConvertError if a tokenizer cannot be read; the others a model can do without.
    """
    names = list(names)
    tokenizers = {name for name in names if has_tokenizer([name])}
    needed = tokenizers & _FIRST_TOKENIZERS or tokenizers
    files, notes = {}, []
    for name in names:
        try:
            files[name] = read_file(folder / name)
        except ConvertError as error:
            if name in needed:
                raise
            notes.append(f"{error} Went on without it.")
    return PresentFiles(files, tuple(notes))


def is_side_file(name: str) -> bool:
    """Tell whether a file with this path in its folder is one."""
    return any(fnmatchcase(name, pattern) for pattern in (*_TOKENIZERS, *_OTHERS))


def is_tokenizer(name: str) -> bool:
    """Tell whether a file with this path in its folder is a tokenizer."""
    return any(fnmatchcase(name, pattern) for pattern in _TOKENIZERS)


def has_tokenizer(files: Iterable[str]) -> bool:
    """Tell whether there is a tokenizer among files with these names."""
    return any(map(is_tokenizer, files))


def read_side_files(folder: Path) -> PresentFiles:
    """Read all side files of a folder. Raises ConvertError without a tokenizer."""
    names = find_present(folder)
    if not has_tokenizer(names):
        raise ConvertError(
            "tokenizer missing: expected tokenizer.model, tokenizer.json or tekken.json, found "
            f'none. Download it to "{folder}".'
        )
    return read_present(folder, names)


def read_eos_token_ids(folder: Path, config: ModelConfig) -> tuple[int, ...]:
    """Return what ends a text: what generation_config.json says, else what `config` says.

    A damaged generation_config.json says nothing: the tokenizer, which reads it too, notes that.
    """
    path = folder / "generation_config.json"
    try:
        found = read_json(path).get("eos_token_id") if path.exists() else None
    except ConvertError:
        found = None
    if found is None:
        return config.eos_token_ids
    return token_ids(found, "eos_token_id", f'"{path}"', config.vocab_size)
