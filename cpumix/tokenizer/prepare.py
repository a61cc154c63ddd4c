"""What of a checkpoint's small files goes into a model file."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .mistral import MODEL, TEKKEN, tekken_to_json
from .settings import SPACES, TokenizerSettings, own_format
from .side_files import SideFiles

_OBJECTS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.json",
)


def prepare_files(files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    """Return the files to keep, under the names that transformers gives them.

    What is damaged is left out. Of Mistral's own files, a tokenizer.model.v3 is renamed, and a
    tekken.json made one that is quick to read, a tokenizer.json. If all stay as they are, it is
    `files` itself, and no vocabulary is read.

    Raises ConfigError for a damaged tekken.json; the notes of a `Tokenizer` made from the same
    `files` name what is left out.
    """
    side = SideFiles(files)
    dropped = {name for name in _OBJECTS if name in files and not side.is_object(name)}
    dropped |= {name for name in files if name == TEKKEN or MODEL.fullmatch(name)}
    if not dropped:
        return files
    kept = {name: data for name, data in files.items() if name not in dropped}
    own = own_format(files)
    if own is None:
        return kept
    settings = TokenizerSettings.from_files(files)
    config = side.object("tokenizer_config.json") | settings.names
    config |= {"chat_template": settings.templates, SPACES: settings.spaces.name}
    kept["tokenizer_config.json"] = json.dumps(config).encode()
    if own == TEKKEN:
        kept["tokenizer.json"] = tekken_to_json(files[own])
    else:
        kept["tokenizer.model"] = files[own]
    return kept
