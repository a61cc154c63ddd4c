"""Streams the tensors of a model file into a GGUF file, some rows at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cpumix.arguments import check_path
from cpumix.checkpoint.namings.gguf import namings
from cpumix.checkpoint.namings.places import Pairs
from cpumix.errors import ConvertError
from cpumix.quant import FLOAT32
from cpumix.quant.tiles import BLOCK, TILE_ROWS
from cpumix.store import ModelFile, gguf
from cpumix.store.bus_guard import guarded
from cpumix.store.matrices import FileMatrix, matrices_of
from cpumix.store.partial import PartialFile, check_target

from .metadata import model_metadata, rope_factors
from .vocabulary import tokenizer_metadata
from .weights import TYPES, Bytes, ExportType, find_type

Progress = Callable[[int, int], None]
_SLICE_BYTES = 32 << 20  # of the model file at a time


@dataclass(frozen=True)
class ExportReport:
    """What an export did; sizes in bytes."""

    target: Path
    file_bytes: int
    seconds: float
    types: dict[str, int]
    """How many tensors have each type."""


class _Tensor(NamedTuple):
    """A tensor of the GGUF file: one piece, or those of all experts, one after the other."""

    name: str
    shape: tuple[int, ...]
    type: ExportType
    pieces: list[FileMatrix]
    in_pairs: bool
    """Whether RoPE turns neighbouring rows in llama.cpp, and halves of heads here."""

    @property
    def nbytes(self) -> int:
        """Bytes in the GGUF file."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.type.block_bytes // BLOCK


def export(
    model: str | Path,
    target: str | Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the model file `model` as the GGUF file `target`, which llama.cpp loads.

    `progress` is called with the bytes written and those of all tensors. An existing target is
    replaced only with `force`. Raises FormatError for a damaged model file, ConvertError or
    ConfigError for a tokenizer or model that GGUF has no words for; then nothing is left of
    `target`.
    """
    check_path("model", model)
    check_path("target", target)
    began = time.perf_counter()
    target = Path(target)
    check_target(target, force)
    if os.path.exists(target) and os.path.samefile(model, target):
        raise ConvertError(
            f'target: expected another file than the model itself, found "{target}". '
            "Name another target."
        )
    with ModelFile(model) as file:
        config = file.config
        if not config.writes:
            raise ConvertError(
                f"export: expected a model with a language head, found {config.described}. "
                "Use the model file with cpumix."
            )
        tensors = list(_list_tensors(file))
        largest = max(tensors, key=lambda t: (len(t.pieces), t.nbytes))
        name = str(file.metadata.get("general.name", Path(model).stem))
        metadata = model_metadata(config, name, largest.type.file_type)
        metadata |= tokenizer_metadata(file.files, config.vocab_size)
        factors = rope_factors(config)
        places, offset = [], 0
        if factors is not None:
            places.append(gguf.TensorInfo("rope_freqs.weight", factors.shape, gguf.F32_TENSOR, 0))
            offset = gguf.align(factors.nbytes, gguf.DEFAULT_ALIGNMENT)
        for t in tensors:
            places.append(gguf.TensorInfo(t.name, t.shape, t.type.code, offset))
            offset = gguf.align(offset + t.nbytes, gguf.DEFAULT_ALIGNMENT)
        header = gguf.encode_header(metadata, places)
        start = gguf.align(len(header), gguf.DEFAULT_ALIGNMENT)
        out = PartialFile(target, start + offset)
        try:
            out.write(0, memoryview(header))
            if factors is not None:
                out.write(start, memoryview(factors.tobytes()))
            done = 0
            with guarded(file):
                for t, place in zip(tensors, places[-len(tensors) :], strict=True):
                    at = start + place.offset
                    for data in _read(file, t, config.head_dim):
                        out.write(at, memoryview(data.reshape(-1).data))
                        at, done = at + data.nbytes, done + data.nbytes
                        if progress is not None:
                            progress(done, offset)
            check_target(target, force)
            out.publish(force)
        finally:
            out.discard()
    names = [t.type.name for t in tensors]
    return ExportReport(
        target, start + offset, time.perf_counter() - began, {n: names.count(n) for n in set(names)}
    )


def _list_tensors(file: ModelFile) -> Iterator[_Tensor]:
    config = file.config
    naming = namings(config)[0]
    for spec in config.dense_tensors():
        (matrix,) = matrices_of(file, file.tensors[spec.name])
        place = naming[spec.role]
        is_vector = len(spec.shape) == 1
        kind = (
            TYPES[FLOAT32] if is_vector else find_type(matrix.format, matrix.columns, matrix.book)
        )
        in_pairs = isinstance(place, Pairs)
        yield _Tensor(place.source(spec), spec.shape, kind, [matrix], in_pairs)
    for layer in range(config.num_hidden_layers):
        names = [file.expert_name(layer, expert) for expert in range(config.num_local_experts)]
        for parts in zip(*(matrices_of(file, file.tensors[n]) for n in names), strict=True):
            spec = parts[0].spec
            place = naming[spec.role]
            shape = (len(parts), *spec.shape) if config.is_moe else spec.shape
            kind = find_type(parts[0].format, parts[0].columns, parts[0].book)
            if any(part.book != parts[0].book for part in parts):
                raise ConvertError(
                    f'tensor "{spec.name}": expected the same code book in all experts of a layer, '
                    f'found several in "{file.path}". Convert the checkpoint again, then export.'
                )
            yield _Tensor(place.source(spec), shape, kind, list(parts), False)


def _read(file: ModelFile, tensor: _Tensor, head_dim: int) -> Iterator[Bytes]:
    """Yield a tensor's rows as bytes in the type's blocks."""
    for piece in tensor.pieces:
        for rows in _read_piece(tensor, piece):
            yield np.ascontiguousarray(_to_pairs(rows, head_dim) if tensor.in_pairs else rows)
        file.release(piece.tensor)


def _read_piece(tensor: _Tensor, piece: FileMatrix) -> Iterator[Bytes]:
    """Yield rows in the order of the model file: all at once if their order changes."""
    if piece.format == FLOAT32:
        n, k = piece.spec.shape if len(piece.spec.shape) == 2 else (*piece.spec.shape, 1)
        yield tensor.type.rows(piece.data, n, k)
        return
    tiles = piece.tiles
    step = len(tiles) if tensor.in_pairs else max(1, _SLICE_BYTES // tiles[0].nbytes)
    for first in range(0, len(tiles), step):
        some = tiles[first : first + step]
        n = min(len(some) * TILE_ROWS, piece.rows - first * TILE_ROWS)
        yield tensor.type.rows(some, n, piece.columns)


def _to_pairs(rows: Bytes, head_dim: int) -> Bytes:
    """Reorder rows of q or k from RoPE's halves (i, i + head_dim/2) to pairs (2i, 2i+1)."""
    heads = rows.reshape(-1, 2, head_dim // 2, rows.shape[-1])
    return heads.swapaxes(1, 2).reshape(rows.shape)
