"""Names on the Hugging Face hub, and which files of a repository are needed.

A name is ORG/NAME, ORG/NAME@REVISION, or ORG/NAME/FILE.gguf where a repository has several models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from cpumix.checkpoint.sources import huggingface, mistral
from cpumix.checkpoint.sources.side_files import is_side_file
from cpumix.errors import ConvertError, quoted

_NAME = re.compile(
    r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:/(?P<file>[\w.+-]+\.gguf))?(?:@(?P<revision>[\w./-]+))?"
)
_PART = re.compile(r"(.*)-\d{5}-of-(\d{5}\.gguf)")
_SETTINGS = ("config.json", "params.json", "quantize_config.json", "quant_config.json")
# Of forms whose sizes differ by less, the first is taken: safetensors need no care.
_ABOUT_EQUAL = 1.05


class HubName(NamedTuple):
    """What a user asks for."""

    repo: str
    file: str | None
    revision: str | None


class HubFile(NamedTuple):
    """A file of a repository."""

    name: str
    nbytes: int
    blob: str = ""
    """What changes with its bytes."""


def parse_name(text: str) -> HubName | None:
    """Return what a text names on the hub, None if it cannot be such a name."""
    found = _NAME.fullmatch(text)
    return HubName(found["repo"], found["file"], found["revision"]) if found else None


def choose_files(files: Iterable[HubFile], wanted: str | None, where: str) -> list[str]:
    """Return the files of a repository that make the smallest complete checkpoint.

    `wanted` is a GGUF file that was asked for. Raises ConvertError if there is no checkpoint, or
    if which GGUF model is meant cannot be told.
    """
    sizes = {file.name: file.nbytes for file in files}
    if wanted is not None:
        return _gguf_parts(wanted, sizes, where)
    forms = []
    for kind in (*huggingface.SHARDS, *mistral.SHARDS):
        shards = kind.pick(name for name in sizes if "/" not in name)
        if shards and shards != [kind.single] and kind.index_name in sizes:
            shards.append(kind.index_name)
        forms += [shards] if shards else []
    if forms:
        totals = [sum(sizes[name] for name in form) for form in forms]
        weights = next(
            f for f, n in zip(forms, totals, strict=True) if n <= _ABOUT_EQUAL * min(totals)
        )
        return weights + [name for name in sizes if name in _SETTINGS or is_side_file(name)]
    models = sorted({_PART.sub(r"\1-00001-of-\2", name) for name in sizes if _is_model(name)})
    if len(models) != 1:
        found = f"{len(models)} GGUF models, such as {quoted(models[0])}" if models else "none"
        raise ConvertError(
            f"hub: expected one checkpoint in {quoted(where)}, found {found}. Name "
            + ("one of them, ORG/NAME/FILE.gguf." if models else "another repository.")
        )
    return _gguf_parts(models[0], sizes, where)


def _is_model(name: str) -> bool:
    return name.endswith(".gguf") and not name.startswith("mmproj") and "imatrix" not in name


def _gguf_parts(name: str, sizes: dict[str, int], where: str) -> list[str]:
    """Return a GGUF file, and the other parts of its model. Raises ConvertError if it is absent."""
    if name not in sizes:
        raise ConvertError(f"hub: expected the file {quoted(name)} in {quoted(where)}, found none.")
    found = _PART.fullmatch(name)
    if not found:
        return [name]
    parts = re.compile(rf"{re.escape(found[1])}-\d{{5}}-of-{re.escape(found[2])}")
    return sorted(other for other in sizes if parts.fullmatch(other))
