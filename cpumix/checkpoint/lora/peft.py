"""Adapters of PEFT: adapter_config.json and adapter_model.safetensors (or .bin).

The parts of a module, whose names begin with "base_model.model." and the module's own:

    lora_A.weight (rank, columns), lora_B.weight (rows, rank)     W += scale * B A
    lora_embedding_A (rank, vocabulary), lora_embedding_B (hidden, rank)    W += scale * (B A)^T
    lora_magnitude_vector (rows,)                                 DoRA
    base_layer.weight, weight                                     all of it

scale = alpha / rank, or alpha / sqrt(rank) with use_rslora; alpha_pattern has other alphas for the
modules that its patterns match at the end. The rank is that of the factors.

Stacked experts (transformers 5) are parameters of the module "experts", adapted one over the other:
the inner ones have "base_layer." once more in their names, and only shapes tell which is which. A
is (experts * rank, columns), expert by expert; B (rows, rank * experts), the expert last. PEFT
before 0.19 has rows and columns exchanged. Source: https://github.com/huggingface/peft,
src/peft/tuners/lora/layer.py, ParamWrapper.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cpumix.config import ModelConfig, TensorSpec
from cpumix.errors import ConfigError, ConvertError, quoted

from ..containers import read_tensors
from ..encodings.parts import are_floats
from ..encodings.plain import PlainMatrix
from ..files import read_json
from ..matrix import Matrix, widen
from ..namings.huggingface import namings
from ..namings.places import Place, Stacked
from ..sources.side_files import PresentFiles, find_present, has_tokenizer, read_present
from ..stored import StoredTensor
from ..views import Transposed
from .adapter import (
    VOCABULARY,
    Adapter,
    Targets,
    by_module,
    check_factors,
    find_targets,
    is_factor,
    low_rank,
    unknown,
    whole,
)
from .low_rank import Floats, LowRank

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_SUFFIXES = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_embedding_A": "embedding_A",
    "lora_embedding_B": "embedding_B",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "base_layer.weight": "whole",
    "weight": "whole",
}
# Settings with which the weights mean something else, and what they are without it.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "alora_invocation_tokens": (None,),
    "layer_replication": (None,),
    "megatron_config": (None,),
    "use_qalora": (None, False),
    "use_bdlora": (None, False),
    "lora_bias": (None, False),
    "trainable_token_indices": (None,),
    # These keep a part of the base model's weights in the adapter, unless they were converted.
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
}
_LONGEST_PATTERN = 200
_SAFE_PATTERN = re.compile(r"[\w.^$|\\-]*(?:(?:\.|\\d|\\w)[*+][\w.^$|\\-]*){0,3}")


def claims(folder: Path) -> bool:
    """Whether this is an adapter of PEFT."""
    return any((folder / name).exists() for name in WEIGHTS)


def read(folder: Path, config: ModelConfig, scale: float) -> Adapter:
    """Return what an adapter changes in a model, times `scale`."""
    settings = read_json(folder / CONFIG)
    for name, allowed in _ONLY.items():
        value = settings.get(name)
        if not any(value is one or value == one for one in allowed):
            raise ConfigError(
                f'"{folder / CONFIG}": {name}: an adapter that cpumix cannot merge, found '
                f"{quoted(value)}. Merge it with the program that trained it."
            )
    path = next(folder / name for name in WEIGHTS if (folder / name).exists())
    stored = {_plain_name(n): part for n, part in read_tensors(path).items()}
    targets = find_targets(config, namings(config.family))
    added: dict[str, LowRank] = {}
    replaced: dict[str, Matrix] = {}
    for module, parts in by_module(stored, _SUFFIXES):
        known = module if module in targets else _stack_of(module, parts, targets)
        if known is None:
            raise unknown(module, path)
        spec, place = targets[known][0]
        down = parts.get("A", parts.get("embedding_A"))
        rank = down.shape[0] if down is not None and down.shape else 0
        if isinstance(place, Stacked):
            rank //= config.num_local_experts
        factor = scale * _scale(settings, known, rank)
        if isinstance(place, Stacked):
            added |= _experts(parts, targets[known], config, factor)
            continue
        if "whole" in parts:
            replaced[spec.name] = whole(parts["whole"], spec)
        shape = replaced[spec.name].shape if spec.name in replaced else spec.shape
        added |= _change(parts, spec.name, shape, factor)
    resized = any(replaced[n].shape[0] != config.vocab_size for n in VOCABULARY if n in replaced)
    return Adapter(path, added, replaced, *_side_files(folder, resized))


def _plain_name(name: str) -> str:
    """Return a part's name as PEFT saves it today: without the adapter's own name."""
    name = name.removeprefix(_PREFIX).replace(".modules_to_save.", ".")
    return (
        name.removesuffix(".default")
        if name.endswith(".default")
        else name.replace(".default.", ".")
    )


def _change(
    parts: Mapping[str, StoredTensor], name: str, shape: tuple[int, ...], scale: float
) -> dict[str, LowRank]:
    """Return the change of a module's tensor, if it has one."""
    factors = {part: PlainMatrix(stored) for part, stored in parts.items()}
    magnitude = parts.get("magnitude")
    if {"A", "B"} <= parts.keys():
        return {name: low_rank(factors["B"], factors["A"], scale, name, shape, magnitude)}
    if {"embedding_A", "embedding_B"} <= parts.keys() and magnitude is None:
        up, down = Transposed(factors["embedding_A"]), Transposed(factors["embedding_B"])
        return {name: low_rank(up, down, scale, name, shape)}
    if parts.keys() != {"whole"}:
        raise ConvertError(
            f"adapter of tensor {quoted(name)}: expected lora_A and lora_B, found "
            f"{', '.join(sorted(parts))}. Download the adapter again."
        )
    return {}


def _stack_of(module: str, parts: Mapping[str, StoredTensor], targets: Targets) -> str | None:
    """Return the stack of experts that a nested adapter of a module changes, by its shapes."""
    owner = re.sub(r"(\.base_layer)+$", "", module)
    for exchanged in (False, True):
        for name, entries in targets.items():
            spec, place = entries[0]
            if name.rpartition(".")[0] == owner and isinstance(place, Stacked):
                sizes = (place.parts * spec.shape[0], spec.shape[1])
                if _outer(parts) == (sizes[::-1] if exchanged else sizes):
                    return name
    return None


def _outer(parts: Mapping[str, StoredTensor]) -> tuple[int, ...] | None:
    """Return rows and columns of what A and B add, None without them."""
    shapes = [parts[part].shape for part in ("B", "A") if part in parts]
    if [len(shape) for shape in shapes] != [2, 2]:
        return None
    return (shapes[0][0], shapes[1][1])


def _experts(
    parts: Mapping[str, StoredTensor],
    entries: list[tuple[TensorSpec, Place]],
    config: ModelConfig,
    scale: float,
) -> dict[str, LowRank]:
    """Return the changes of all experts of a stack."""
    experts, (first, place) = config.num_local_experts, entries[0]
    up, down = PlainMatrix(parts["B"]), PlainMatrix(parts["A"])
    rank, rest = divmod(down.shape[0], experts)
    fits = not rest and up.shape[1] == down.shape[0] > 0 and "magnitude" not in parts
    check_factors(fits and are_floats(*parts.values()), first.name, first.shape, up, down)
    assert isinstance(place, Stacked)
    exchanged = _outer(parts) != (place.parts * first.shape[0], first.shape[1])

    def load(spec: TensorSpec, place: Stacked) -> tuple[Floats, Floats]:
        expert, rows = spec.expert or 0, spec.shape[0]
        a = widen(down.read_rows(expert * rank, (expert + 1) * rank))
        b = widen(up.read_rows(0, up.shape[0])).reshape(-1, rank, experts)[..., expert]
        if exchanged:
            a, b = b.T, a.T
        return np.ascontiguousarray(b[place.part * rows :][:rows]), np.ascontiguousarray(a)

    return {
        spec.name: LowRank(scale, partial(load, spec, place))
        for spec, place in entries
        if isinstance(place, Stacked)
    }


def _scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """Return what the product of a module's factors is multiplied by."""
    patterns = settings.get("alpha_pattern") or {}
    alpha = settings.get("lora_alpha", 8)  # PEFT's default
    if isinstance(patterns, dict):
        alpha = next((a for p, a in patterns.items() if _matches(p, module)), alpha)
    if not is_factor(alpha):
        raise ConfigError(f"lora_alpha: expected a number, found {quoted(alpha)}.")
    rank = max(rank, 1)
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _matches(pattern: str, module: str) -> bool:
    """Whether a pattern of PEFT fits a module; only patterns that take no time are tried."""
    try:
        if len(pattern) <= _LONGEST_PATTERN and _SAFE_PATTERN.fullmatch(pattern):
            return re.match(rf"(?:.*\.)?(?:{pattern})$", module) is not None
    except re.error:
        pass
    raise ConfigError(
        f"alpha_pattern: expected the end of a module's name, found {quoted(pattern)}. "
        "Merge the adapter with the program that trained it."
    )


def _side_files(folder: Path, resized: bool) -> PresentFiles:
    """Read the side files that matter: all with a new vocabulary, else a chat template."""
    names = find_present(folder)
    if not (resized and has_tokenizer(names)):
        names = [name for name in names if name.startswith("chat_template")]
    return read_present(folder, names)
