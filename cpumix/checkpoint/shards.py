"""Which of a folder's files hold the weights, and which tensor lies in which of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cpumix.errors import ConvertError

from .files import cannot_read, read_json
from .safetensors import StoredTensor, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".gguf")
SHARD_NUMBER = re.compile(r"(.*)-\d{5}-of-(\d{5})\.safetensors")


def read_shards(folder: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a checkpoint by their names in it, from the shards' headers alone.

    Raises ConvertError if there are no shards, if one is damaged or missing, or if two have the
    same tensor.
    """
    names = _list_folder(folder)
    weight_map = _weight_map(folder) if INDEX in names else {}
    shards = sorted(set(weight_map.values())) or _without_index(folder, names)
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        if shard not in names:
            raise ConvertError(
                f'shard "{shard}" is missing although the index names it. '
                f'Download it into "{folder}".'
            )
        for name, tensor in read_header(folder / shard).items():
            if name in tensors:
                raise ConvertError(
                    f'tensor "{name}" lies in two shards, "{tensors[name].path.name}" and '
                    f'"{shard}". Keep the shards of one model only in "{folder}".'
                )
            tensors[name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].path.name != shard:
            raise ConvertError(
                f'tensor "{name}" is not in the shard that the index names for it, "{shard}". '
                f'Download the index and the shards of one version into "{folder}".'
            )
    return tensors


def _list_folder(folder: Path) -> set[str]:
    if os.path.isfile(folder):
        raise ConvertError(
            f'expected the folder of a Hugging Face checkpoint, found a file: "{folder}". '
            "Give the folder that it lies in."
        )
    if not os.path.lexists(folder):
        raise ConvertError(f'this checkpoint folder does not exist: "{folder}".')
    try:
        return set(os.listdir(folder))
    except OSError as e:
        raise cannot_read(folder, e) from e


def _weight_map(folder: Path) -> dict[str, str]:
    """Return tensor name -> shard name as the index has it."""
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConvertError(
            f'"{folder / INDEX}": expected a "weight_map" with the shard of each tensor, found '
            "none. Download it again."
        )
    for shard in weight_map.values():
        if not isinstance(shard, str) or re.search(r"[/\\\0]", shard) or shard in ("", ".", ".."):
            raise ConvertError(
                f'"{folder / INDEX}": expected plain names of shards beside it, found {shard!r}. '
                "Download it again."
            )
    return weight_map


def _without_index(folder: Path, names: set[str]) -> list[str]:
    """Choose the shards of a folder that has no index, and see that their numbers are complete."""
    if SINGLE in names:
        return [SINGLE]
    # Mistral ships its own naming of the same weights beside, as consolidated.*.
    shards = sorted(
        n for n in names if n.endswith(".safetensors") and not n.startswith("consolidated.")
    )
    if not shards:
        raise _no_shards(folder, names)
    series = {(m[1], m[2]): m[0] for n in shards if (m := SHARD_NUMBER.fullmatch(n))}
    for (prefix, count), shard in series.items():
        for number in range(1, int(count) + 1):
            absent = f"{prefix}-{number:05d}-of-{count}.safetensors"
            if absent not in names:
                raise ConvertError(
                    f'shard "{absent}" is missing beside "{shard}". Download it into "{folder}".'
                )
    return shards


def _no_shards(folder: Path, names: set[str]) -> ConvertError:
    others = sorted(n for n in names if n.startswith("consolidated.") or n.endswith(OTHER_WEIGHTS))
    if others:
        return ConvertError(
            f'expected weights as safetensors in Hugging Face naming, found "{others[0]}". '
            f'Download the *.safetensors shards into "{folder}".'
        )
    return ConvertError(
        "not a checkpoint: expected a Hugging Face folder with config.json and *.safetensors, "
        f'found no shards in "{folder}".'
    )
