"""What the small files beside a tokenizer say: special tokens, BOS and EOS, the chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cpumix.errors import ConfigError

# Fine-tunes forget to declare turn marks special: <|im_start|>, or the same with wide bars.
_TURN_MARK = re.compile("<[|\uff5c].+[|\uff5c]>")


@dataclass(frozen=True)
class TokenizerSettings:
    """The side files of a tokenizer, read and checked; all of them are optional."""

    added: dict[int, str]  # tokens that the vocabulary itself may lack
    words: frozenset[str]  # those of them that are declared not special
    names: dict[str, str]  # "bos_token": "<s>" and so on, as templates refer to them
    add_bos: bool | None  # None: not said
    legacy: bool  # sentencepiece: each text after a control token gets a space in front
    eos_ids: tuple[int, ...]  # from generation_config.json
    template: str | None

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> TokenizerSettings:
        """Read the side files; raise ConfigError for one that does not hold what it should."""
        added = {
            _read_id("added_tokens.json", token): text
            for text, token in _read_object(files, "added_tokens.json").items()
        }
        config = _read_object(files, "special_tokens_map.json")
        config |= _read_object(files, "tokenizer_config.json")
        declared = _dict(config.get("added_tokens_decoder"))
        for token, entry in declared.items():
            added[_read_id("tokenizer_config.json", token)] = _text(entry)
        eos = _read_object(files, "generation_config.json").get("eos_token_id")
        several = eos if isinstance(eos, list) else [] if eos is None else [eos]
        return cls(
            added=added,
            words=frozenset(
                _text(x) for x in declared.values() if _dict(x).get("special") is False
            ),
            names={k: _text(v) for k, v in config.items() if k.endswith("_token") and _text(v)},
            add_bos=None if config.get("add_bos_token") is None else bool(config["add_bos_token"]),
            legacy=config.get("legacy") is not False,
            eos_ids=tuple(_read_id("generation_config.json", token) for token in several),
            template=_find_template(files, config.get("chat_template")),
        )

    def is_control(self, token: str, special: bool) -> bool:
        """Tell an added token that only templates write from a word that plain text may contain."""
        return special or token in self.names.values() or bool(_TURN_MARK.fullmatch(token))


def _read_object(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        value = json.loads(files.get(name, b"{}"))
    except ValueError as e:
        raise ConfigError(
            f"{name}: expected valid JSON, found {e}. Copy the file from the checkpoint again."
        ) from e
    if not isinstance(value, dict):
        raise ConfigError(
            f"{name}: expected a JSON object at the top, found {type(value).__name__}. "
            "Copy the file from the checkpoint again."
        )
    return value


def _read_id(name: str, value: object) -> int:
    if not str(value).isdecimal():
        raise ConfigError(
            f"{name}: expected a token id from 0 on, found {value!r}. Correct the file."
        )
    return int(str(value))


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(token: object) -> str:
    """Return a token written as a string or as {"content": string, ...}; "" if it is neither."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _find_template(files: Mapping[str, bytes], configured: object) -> str | None:
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode("utf-8", "replace")
    if isinstance(configured, list):  # several: [{"name": "default", "template": "..."}, ...]
        named = {_dict(entry).get("name"): _dict(entry).get("template") for entry in configured}
        configured = named.get("default")
    return configured if isinstance(configured, str) else None
