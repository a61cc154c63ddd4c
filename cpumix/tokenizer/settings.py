"""What the small files beside a tokenizer say: special tokens, BOS and EOS, chat templates."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from .mistral import TEKKEN, find_model, template_of, template_of_tekken
from .side_files import SideFiles, Unreadable, token_id
from .stream import SPACE

# Fine-tunes forget to declare turn marks special: <|im_start|>, or the same with wide bars.
_TURN_MARK = re.compile("<[|\uff5c].+[|\uff5c]>")
# Where the list begins in tokenizer.json, which is large: in a text the quotes would be escaped.
_ADDED = re.compile(r'"added_tokens"\s*:\s*(?=\[)')
_FIRST_ONLY = re.compile(r'"prepend_scheme"\s*:\s*"first"')
_MISTRAL_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
SPACES = "cpumix_spaces"  # our own field of tokenizer_config.json: a name of `Spaces`
MOST_ADDED = 1 << 16  # tokens; the most known are some thousands
MOST_NAMES = 256  # of special tokens; the most known are some dozens
MOST_TEMPLATES = 64  # the most known are five
_MORE_TEMPLATES = (
    "additional_chat_templates/"  # where transformers 5 saves those beside the default
)
_K = TypeVar("_K")
_V = TypeVar("_V")


class AddedToken(NamedTuple):
    """A token beside the vocabulary, or one of it with a role that it does not tell."""

    text: str
    special: bool  # only templates write it
    strips_left: bool = False  # takes the white space before it along
    strips_right: bool = False  # and after it


class Spaces(Enum):
    """Where sentencepiece puts a space of its own: before the first text, and before others."""

    FIRST = "only there: transformers with legacy false"
    LEGACY = "and before each text after a control token, unless it begins with a space"
    ALWAYS = "and before each text after a control token: Mistral's own library"

    def before(self, text: str) -> bool:
        """Tell whether a text that follows a control token gets a space."""
        has_one = text.startswith((" ", SPACE))
        return self is Spaces.ALWAYS or (self is Spaces.LEGACY and not has_one)


@dataclass(frozen=True)
class TokenizerSettings:
    """The side files of a tokenizer, read and checked; all of them are optional."""

    added: dict[int, AddedToken]
    names: dict[str, str]  # "bos_token": "<s>" and so on, as templates refer to them
    add_bos: bool | None  # None: not said
    add_eos: bool | None  # to a text that is whole
    spaces: Spaces
    eos_ids: tuple[int, ...]  # from generation_config.json
    templates: dict[str, str]  # by name; what stands alone is "default"
    notes: tuple[str, ...]  # on files that could not be read

    @classmethod
    def from_files(cls, source: Mapping[str, bytes]) -> TokenizerSettings:
        """Read the side files; `notes` names those, or those parts, that cannot be read."""
        files = SideFiles(source)
        config = dict(_MISTRAL_NAMES if own_format(source) else {})
        config |= files.object("special_tokens_map.json") | files.object("tokenizer_config.json")
        generation = files.object("generation_config.json")
        eos = generation.get("eos_token_id")
        several = eos if isinstance(eos, list) else [] if eos is None else [eos]
        said, closed = config.get("add_bos_token"), config.get("add_eos_token")
        names = {k: _text(v) for k, v in config.items() if k.endswith("_token") and _text(v)}
        return cls(
            added=_read_added(files, config),
            names=files.attempt("special tokens", lambda: _limited(names, MOST_NAMES), {}),
            add_bos=None if said is None else bool(said),
            add_eos=None if closed is None else bool(closed),
            spaces=_find_spaces(files, config),
            eos_ids=files.attempt(
                "generation_config.json", lambda: tuple(map(token_id, several)), ()
            ),
            templates=_find_templates(files, config.get("chat_template"))
            or _mistral_template(source),
            notes=tuple(files.notes),
        )

    def is_control(self, token: str, special: bool) -> bool:
        """Tell an added token that only templates write from a word that plain text may contain."""
        return special or token in self.names.values() or bool(_TURN_MARK.fullmatch(token))


def _read_added(files: SideFiles, config: dict[str, Any]) -> dict[int, AddedToken]:
    """Return the added tokens of all files that may hold some; the last one named counts."""
    by_text = files.object("added_tokens.json")
    none: dict[int, AddedToken] = {}
    added = files.attempt(
        "added_tokens.json",
        lambda: {token_id(number): AddedToken(text, True) for text, number in by_text.items()},
        none,
    )
    added |= files.attempt("tokenizer.json", lambda: _added_in_json(files), none)
    declared = _dict(config.get("added_tokens_decoder"))
    added |= files.attempt(
        "tokenizer_config.json",
        lambda: {token_id(number): _added_token(entry) for number, entry in declared.items()},
        none,
    )
    added = {number: token for number, token in added.items() if token.text}
    return files.attempt("added tokens", lambda: _limited(added, MOST_ADDED), none)


def _added_in_json(files: SideFiles) -> dict[int, AddedToken]:
    """Return the added tokens of a tokenizer.json beside a sentencepiece model.

    Where it stands alone, the library that reads it knows them.
    """
    source = files.text("tokenizer.json") if _has_model(files) else ""
    place = _ADDED.search(source)
    if place is None:
        return {}
    try:
        entries, _ = json.JSONDecoder().raw_decode(source, place.end())
    except (ValueError, RecursionError):
        raise Unreadable("expected a list of added tokens, found damaged JSON") from None
    return {
        token_id(_dict(entry).get("id")): _added_token(_dict(entry))
        for entry in entries
        if _text(_dict(entry).get("content"))
    }


def _added_token(entry: object) -> AddedToken:
    fields = _dict(entry)
    return AddedToken(
        _text(entry),
        fields.get("special") is not False,
        fields.get("lstrip") is True,
        fields.get("rstrip") is True,
    )


def _find_spaces(files: SideFiles, config: dict[str, Any]) -> Spaces:
    if "tokenizer.model" not in files or config.get(SPACES) == Spaces.ALWAYS.name:
        return Spaces.ALWAYS  # a tokenizer.model.v3 or the like
    if "legacy" in config:
        return Spaces.FIRST if config["legacy"] is False else Spaces.LEGACY
    found = _FIRST_ONLY.search(files.text("tokenizer.json"))
    return Spaces.LEGACY if found is None else Spaces.FIRST


def _has_model(files: SideFiles) -> bool:
    return any(name.startswith("tokenizer.model") for name in files.names())


def _find_templates(files: SideFiles, configured: object) -> dict[str, str]:
    """Return the chat templates by name, as transformers finds them; blank ones are none."""
    found: dict[Any, Any] = {}
    for value in (files.object("chat_template.json").get("chat_template"), configured):
        if isinstance(value, list):  # [{"name": "default", "template": "..."}, ...]
            value = {_text(_dict(x).get("name")): _dict(x).get("template") for x in value}
        found |= value if isinstance(value, dict) else {"default": value} if value else {}
    for name in files.names():
        if name.startswith(_MORE_TEMPLATES) and name.endswith(".jinja"):
            found[name.removeprefix(_MORE_TEMPLATES).removesuffix(".jinja")] = files.text(name)
    if "chat_template.jinja" in files:
        found["default"] = files.text("chat_template.jinja")
    templates = {
        name: template
        for name, template in found.items()
        if isinstance(template, str) and template.strip()
    }
    return files.attempt("chat templates", lambda: _limited(templates, MOST_TEMPLATES), {})


def _limited(found: dict[_K, _V], most: int) -> dict[_K, _V]:
    """Return what was found. Raises Unreadable if it is so much that it would take all memory."""
    if len(found) > most:
        raise Unreadable(f"expected at most {most}, found {len(found)}")
    return found


def own_format(source: Collection[str]) -> str | None:
    """Return the name of the file of Mistral that is the vocabulary, None if another is."""
    if {"tokenizer.model", "tokenizer.json"} & set(source):
        return None
    return find_model(source) or (TEKKEN if TEKKEN in source else None)


def _mistral_template(source: Mapping[str, bytes]) -> dict[str, str]:
    """Return the template that the name or the inside of Mistral's own file stands for.

    Only where it stands alone: beside files of transformers, a base model has it too.
    """
    name = own_format(source)
    template = None
    if name is not None:
        template = template_of_tekken(source[name]) if name == TEKKEN else template_of(name)
    return {} if template is None else {"default": template}


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(token: object) -> str:
    """Return a token written as a string or as {"content": string, ...}; "" if it is neither."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""
