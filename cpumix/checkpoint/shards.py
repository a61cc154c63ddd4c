"""Finds a checkpoint's shards, by its index or without one, and what tensors they hold."""

from __future__ import annotations

import re
from pathlib import Path

from cpumix.errors import ConvertError

from .files import read_json
from .safetensors import StoredTensor, read_header

INDEX = "model.safetensors.index.json"
_NUMBERED = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")
_OTHER_FORMATS = ("*.bin", "*.pth", "*.pt", "consolidated*", "*.gguf")


def read_shards(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor in a folder's shards by its name there. Raises ConvertError."""
    index = _read_index(folder)
    paths = sorted({folder / shard for shard in index.values()}) or _find(folder)
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        for name, stored in read_header(path).items():
            if name in tensors:
                raise ConvertError(
                    f'tensor "{name}": expected it in one shard, found it in two, '
                    f'"{tensors[name].path}" and "{path}". Keep the shards of one checkpoint.'
                )
            tensors[name] = stored
    for name, shard in index.items():
        if name not in tensors or tensors[name].path != folder / shard:
            raise ConvertError(
                f'tensor "{name}": the index expects it in shard "{shard}", which has none of '
                f'that name. Download both again. Index "{folder / INDEX}".'
            )
    return tensors


def _read_index(folder: Path) -> dict[str, str]:
    """Return which shard the index promises for each tensor; nothing without an index."""
    path = folder / INDEX
    if not path.exists():
        return {}
    found = read_json(path).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ConvertError(
            f'"{path}": expected a weight_map of tensors to shards, found none. Download it again.'
        )
    for shard in sorted({str(value) for value in found.values()}):
        if "/" in shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise ConvertError(
                f'"{path}": expected names of *.safetensors files beside the index, '
                f'found "{shard}". Download it again.'
            )
        if not (folder / shard).is_file():
            raise ConvertError(
                f'shard "{shard}": the index names it, but it is absent. Download it to "{folder}".'
            )
    return found


def _find(folder: Path) -> list[Path]:
    """Return the shards of a folder without an index."""
    single = folder / "model.safetensors"
    if single.exists():
        return [single]
    paths = sorted(
        path
        for path in folder.glob("*.safetensors")
        # Mistral's own names, LoRA, and what macOS leaves beside each file on a foreign disk.
        if not path.name.startswith(("consolidated", "adapter", "._"))
    )
    if not paths:
        others = sorted(path.name for kind in _OTHER_FORMATS for path in folder.glob(kind))
        if others:
            raise ConvertError(
                f"weights: expected *.safetensors with Hugging Face's names, found only others, "
                f'such as "{others[0]}". Get the safetensors version for "{folder}".'
            )
        raise ConvertError(
            f'weights: expected *.safetensors, found none in "{folder}". Download them there.'
        )
    for path in paths:
        if match := _NUMBERED.fullmatch(path.name):
            stem, _, last = match.groups()
            for number in range(1, int(last) + 1):
                name = f"{stem}-{number:05}-of-{last}.safetensors"
                if not (folder / name).exists():
                    raise ConvertError(
                        f'shard "{name}": the name of "{path.name}" promises it, but it is '
                        f'absent. Download it to "{folder}".'
                    )
    return paths
