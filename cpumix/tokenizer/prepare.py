"""What of a checkpoint's small files goes into a model file."""

from __future__ import annotations

import json
from collections.abc import Mapping

from .mistral import TEKKEN, tekken_to_json
from .settings import TokenizerSettings, has_own_format
from .side_files import SideFiles

_OBJECTS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.json",
)


def prepare_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files to keep: what is damaged is left out, and a tekken.json made quick to read.

    Raises ConfigError for a damaged tekken.json; the notes of a `Tokenizer` made from the same
    `files` name what is left out.
    """
    side = SideFiles(files)
    damaged = [name for name in _OBJECTS if name in files and not side.is_object(name)]
    kept = {name: data for name, data in files.items() if name not in damaged}
    if has_own_format(files):
        settings = TokenizerSettings.from_files(files)
        config = side.object("tokenizer_config.json")
        config |= settings.names | {"chat_template": settings.templates}
        kept["tokenizer.json"] = tekken_to_json(kept.pop(TEKKEN))
        kept["tokenizer_config.json"] = json.dumps(config).encode()
    return kept
