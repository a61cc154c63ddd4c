"""What an adapter changes in a model, by canonical names; and the model with the change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path

from cpumix.config import ModelConfig, Role, TensorSpec, tensor_name
from cpumix.errors import ConvertError, quoted

from ..encodings.parts import are_floats, read_floats
from ..encodings.plain import PlainMatrix
from ..matrix import Matrix, widen
from ..namings import Naming, Place
from ..stored import StoredTensor
from ..tensor import Checkpoint
from .low_rank import Floats, LowRank, Merged

MOST_FACTOR = 1e6  # more is no scale of training, and NaN is not even less
VOCABULARY = tuple(tensor_name(role) for role in (Role.EMBEDDING, Role.OUTPUT))


@dataclass(frozen=True)
class Adapter:
    """The changes that an adapter makes."""

    path: Path
    added: Mapping[str, LowRank]
    """By the canonical name of the tensor."""
    replaced: Mapping[str, Matrix] = field(default_factory=dict)
    """Tensors that it brings whole."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Side files that stand in for the checkpoint's."""
    notes: tuple[str, ...] = ()
    """A sentence for each of them that could not be read and was left out."""


Targets = dict[str, list[tuple[TensorSpec, Place]]]


def find_targets(config: ModelConfig, namings: Iterable[Naming]) -> Targets:
    """Return the tensors of every module that adapters may change, by the module's name.

    A stack of experts is a module too, of as many tensors as it has parts.
    """
    targets: Targets = {}
    for naming in namings:
        for spec in config.tensors():
            if spec.role in naming:
                place = naming[spec.role]
                found = targets.setdefault(place.source(spec).removesuffix(".weight"), [])
                if (spec, place) not in found:
                    found.append((spec, place))
    return targets


def low_rank(
    up: Matrix,
    down: Matrix,
    scale: float,
    name: str,
    shape: tuple[int, ...],
    magnitude: StoredTensor | None = None,
) -> LowRank:
    """Return the change of a tensor by factors up (rows, rank) and down (rank, columns).

    Raises ConvertError if they are not those of its shape.
    """
    fits = (
        len(shape) == len(up.shape) == len(down.shape) == 2
        and (up.shape[0], down.shape[1]) == shape
        and up.shape[1] == down.shape[0] > 0
        and {up.encoding, down.encoding} <= {"F32", "F16", "BF16"}
        and (magnitude is None or (prod(magnitude.shape) == shape[0] and are_floats(magnitude)))
    )
    check_factors(fits, name, shape, up, down)

    def load() -> tuple[Floats, Floats]:
        rows, inner = (widen(m.read_rows(0, m.shape[0])) for m in (up, down))
        return rows, inner

    lengths = None if magnitude is None else partial(_read_lengths, magnitude)
    return LowRank(scale, load, lengths)


def _read_lengths(magnitude: StoredTensor) -> Floats:
    return read_floats(magnitude).reshape(-1)


def check_factors(fits: bool, name: str, shape: tuple[int, ...], up: Matrix, down: Matrix) -> None:
    """Raise ConvertError unless the factors of a change fit the tensor that it is for."""
    if not fits:
        raise ConvertError(
            f"adapter of tensor {quoted(name)}: expected two factors for {shape}, found "
            f"{up.shape} of {quoted(up.encoding)} and {down.shape} of {quoted(down.encoding)}. "
            f'Use the adapter with the model that it was trained on. File "{up.path}".'
        )


def is_factor(value: object) -> bool:
    """Whether a setting from a file is a number that weights may be multiplied by."""
    # By type(), because True is an int too.
    return type(value) in (int, float) and abs(value) <= MOST_FACTOR  # type: ignore[arg-type]


def unknown(name: str, path: Path) -> ConvertError:
    """Return the error that a part of an adapter belongs to nothing."""
    return ConvertError(
        f"adapter part {quoted(name)}: expected the name of a module of this model, found "
        f'another. Use the adapter with the model that it was trained on. File "{path}".'
    )


def whole(stored: StoredTensor, spec: TensorSpec) -> Matrix:
    """Return a tensor that an adapter brings whole; the vocabulary may have another size."""
    same_rows = stored.shape[:1] == spec.shape[:1] or spec.name in VOCABULARY
    if not (same_rows and stored.shape[1:] == spec.shape[1:] and are_floats(stored)):
        raise ConvertError(
            f"adapter of tensor {quoted(spec.name)}: expected all of it, {spec.shape}, found "
            f"{stored.shape} of {quoted(stored.dtype)}. Use the adapter with the model that it "
            f'was trained on. File "{stored.path}".'
        )
    return PlainMatrix(stored)


def merge(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Return a checkpoint with the changes of an adapter."""
    tensors = dict(checkpoint.tensors)
    for name, matrix in adapter.replaced.items():
        tensors[name] = replace(tensors[name], matrix=matrix)
    for name, change in adapter.added.items():
        tensors[name] = replace(tensors[name], matrix=Merged(tensors[name].matrix, change))
    sizes = {tensors[name].shape[0] for name in VOCABULARY if name in tensors}
    if len(sizes) > 1:
        raise ConvertError(
            f"adapter: expected embedding and head of one vocabulary, found {sorted(sizes)} "
            f'rows. Use the adapter with the model that it was trained on: "{adapter.path}".'
        )
    config = replace(checkpoint.config, vocab_size=sizes.pop())
    files = {**checkpoint.files, **adapter.files}
    notes = (*checkpoint.notes, *adapter.notes)
    return replace(checkpoint, config=config, tensors=tensors, files=files, notes=notes)


def by_module(
    stored: Mapping[str, StoredTensor], suffixes: Mapping[str, str]
) -> Iterator[tuple[str, dict[str, StoredTensor]]]:
    """Yield the parts of each module, by what `suffixes` call the ends of their names."""
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, part in stored.items():
        suffix = next((s for s in suffixes if name.endswith("." + s)), None)
        if suffix is None:
            raise unknown(name, part.path)
        modules.setdefault(name.removesuffix("." + suffix), {})[suffixes[suffix]] = part
    yield from modules.items()
