"""Finds a checkpoint's shards, by its index or without one, and what tensors they hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from cpumix.errors import ConvertError, quoted

from .containers import CONTAINERS
from .files import read_json
from .head import NO_HEADS, Heads, read_head
from .stored import StoredTensor

_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.[a-z]+)")


class ShardNames(NamedTuple):
    """What the files of one kind of shards are called."""

    pattern: str
    """Of the shards, such as "*.safetensors"."""
    index_name: str = ""
    """File that maps tensors to shards, if this kind can have one."""
    single: str = ""
    """Name of the only shard of a small model: where it exists, others are not part of it."""
    others: tuple[str, ...] = ()
    """How files begin that the pattern fits and that are not shards."""

    def pick(self, names: Iterable[str]) -> list[str]:
        """Return those of some files' names that are shards of this kind, in order."""
        found = sorted(
            name
            for name in names
            if fnmatchcase(name, self.pattern) and not name.startswith((*self.others, "._"))
        )
        return [self.single] if self.single in found else found

    def find(self, folder: Path, heads: Heads = NO_HEADS) -> list[Path]:
        """Return the shards in a folder, without an index."""
        return [folder / name for name in self.pick(names_in(folder, heads))]

    def exists(self, folder: Path, heads: Heads = NO_HEADS) -> bool:
        """Whether a folder has shards of this kind, or an index that promises some."""
        return bool(self.find(folder, heads)) or bool(
            self.index_name and (folder / self.index_name).exists()
        )


def names_in(folder: Path, heads: Heads) -> set[str]:
    """Return the names of a folder's files, with those that are not here yet."""
    return {p.name for p in folder.glob("*")} | {p.name for p in heads if p.parent == folder}


def read_shards(folder: Path, names: ShardNames, heads: Heads) -> dict[str, StoredTensor]:
    """Return every tensor in a folder's shards by its name there. Raises ConvertError."""
    index = _read_index(folder, names, heads)
    paths = sorted(folder / shard for shard in {*index.values()}) or names.find(folder, heads)
    if not index:
        _check_numbers(paths, heads)
    tensors: dict[str, StoredTensor] = {}
    homes: dict[str, str] = {}  # by tensor: a path for each of them would take half the time
    for path in paths:
        found = read_head(path, CONTAINERS[path.suffix], heads).tensors
        for name, stored in found.items():
            if name in tensors:
                raise ConvertError(
                    f"tensor {quoted(name)}: expected it in one shard, found it in two, "
                    f'"{tensors[name].path}" and "{path}". Keep the shards of one checkpoint.'
                )
            tensors[name] = stored
        homes |= dict.fromkeys(found, path.name)
    for name, shard in index.items():
        if homes.get(name) != shard:
            raise ConvertError(
                f"tensor {quoted(name)}: the index expects it in shard {quoted(shard)}, which has "
                f'none of that name. Download both again. Index "{folder / names.index_name}".'
            )
    return tensors


def _read_index(folder: Path, names: ShardNames, heads: Heads) -> dict[str, str]:
    """Return which shard the index promises for each tensor; nothing without an index."""
    path = folder / names.index_name
    if not names.index_name or not path.exists():
        return {}
    found = read_json(path).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ConvertError(
            f'"{path}": expected a weight_map of tensors to shards, found none. Download it again.'
        )
    suffix = names.pattern.rpartition("*")[2]
    for shard in sorted({str(value) for value in found.values()}):
        if "/" in shard or "\\" in shard or not shard.endswith(suffix):
            raise ConvertError(
                f'"{path}": expected names of *{suffix} files beside the index, '
                f"found {quoted(shard)}. Download it again."
            )
        if folder / shard not in heads and not os.path.isfile(
            folder / shard
        ):  # False for a name that no system takes, too
            raise ConvertError(
                f"shard {quoted(shard)}: the index names it, but it is absent. "
                f'Download it to "{folder}".'
            )
    return found


def _check_numbers(paths: list[Path], heads: Heads) -> None:
    """Raise ConvertError if a numbered shard's brothers are not all there."""
    for path in paths:
        if match := _NUMBERED.fullmatch(path.name):
            stem, _, last, suffix = match.groups()
            for number in range(1, int(last) + 1):
                name = f"{stem}-{number:05}-of-{last}{suffix}"
                if path.parent / name not in heads and not (path.parent / name).exists():
                    raise ConvertError(
                        f'shard "{name}": the name of "{path.name}" promises it, but it is '
                        f'absent. Download it to "{path.parent}".'
                    )
