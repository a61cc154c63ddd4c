"""Streams the tensors of a model file into a GGUF file, some rows at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cpumix.config import EXPERT_PARTS, ModelConfig, Role, TensorSpec
from cpumix.quant import FLOAT32, FORMATS, nbytes, tile_counts
from cpumix.quant.tiles import BLOCK, ROWS
from cpumix.store import ModelFile, gguf
from cpumix.store.partial import PartialFile, check_target

from .metadata import model_metadata, rope_factors
from .vocabulary import tokenizer_metadata
from .weights import TYPES, Bytes, ExportType, find_type

Progress = Callable[[int, int], None]
_SLICE_BYTES = 32 << 20  # of the model file at a time
_NAMES = {
    Role.ROUTER: "ffn_gate_inp.weight",
    Role.W1: "ffn_gate",
    Role.W3: "ffn_up",
    Role.W2: "ffn_down",
}


@dataclass(frozen=True)
class ExportReport:
    """What an export did; sizes in bytes."""

    target: Path
    file_bytes: int
    seconds: float
    types: dict[str, int]
    """How many tensors have each type."""


class _Piece(NamedTuple):
    """A matrix or vector in a tensor of the model file."""

    tensor: str
    offset: int
    """In bytes from the tensor's start."""
    spec: TensorSpec


class _Tensor(NamedTuple):
    """A tensor of the GGUF file: one piece, or those of all experts, one after the other."""

    name: str
    shape: tuple[int, ...]
    type: ExportType
    format: str
    """Of the pieces, in the model file."""
    pieces: list[_Piece]

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
    began = time.perf_counter()
    target = Path(target)
    check_target(target, force)
    with ModelFile(model) as file:
        config = file.config
        tensors = list(_list_tensors(file))
        largest = max(tensors, key=lambda t: (len(t.pieces), t.nbytes))
        name = str(file.metadata.get("general.name", Path(model).stem))
        metadata = model_metadata(config, name, largest.type.file_type)
        metadata |= tokenizer_metadata(file.files, config.vocab_size)
        factors = rope_factors(config)
        places, offset = [], 0
        if factors is not None:
            places.append(gguf.TensorInfo("rope_freqs.weight", factors.shape, gguf.FLOAT32, 0))
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
            for t, place in zip(tensors, places[-len(tensors) :], strict=True):
                at = start + place.offset
                for data in _read(file, t, config.head_dim):
                    out.write(at, memoryview(data.reshape(-1).data))
                    at, done = at + data.nbytes, done + data.nbytes
                    if progress is not None:
                        progress(done, offset)
            check_target(target, force)
            out.publish()
        finally:
            out.discard()
    names = [t.type.name for t in tensors]
    return ExportReport(
        target, start + offset, time.perf_counter() - began, {n: names.count(n) for n in set(names)}
    )


def _list_tensors(file: ModelFile) -> Iterator[_Tensor]:
    config = file.config
    for spec in config.dense_tensors():
        kind = file.tensors[spec.name].format
        name = spec.name if spec.role not in _NAMES else f"blk.{spec.layer}.{_NAMES[spec.role]}"
        vector = len(spec.shape) == 1
        type_ = TYPES[FLOAT32] if vector else find_type(kind, spec.shape[-1])
        yield _Tensor(name, spec.shape, type_, kind, [_Piece(spec.name, 0, spec)])
    for layer in range(config.num_hidden_layers):
        for part, role in enumerate(EXPERT_PARTS):
            pieces = [
                _expert_piece(file, config, layer, e, part) for e in range(config.num_local_experts)
            ]
            kind, shape = file.tensors[pieces[0].tensor].format, pieces[0].spec.shape
            stacked = config.is_moe
            yield _Tensor(
                f"blk.{layer}.{_NAMES[role]}{'_exps' if stacked else ''}.weight",
                (len(pieces), *shape) if stacked else shape,
                find_type(kind, shape[-1]),
                kind,
                pieces,
            )


def _expert_piece(
    file: ModelFile, config: ModelConfig, layer: int, expert: int, part: int
) -> _Piece:
    tensor = file.expert_name(layer, expert)
    kind = file.tensors[tensor].format
    specs = list(config.expert_tensors(layer, expert))
    return _Piece(tensor, sum(nbytes(kind, s.shape) for s in specs[:part]), specs[part])


def _read(file: ModelFile, tensor: _Tensor, head_dim: int) -> Iterator[Bytes]:
    """Yield a tensor's rows as bytes in the type's blocks."""
    for piece in tensor.pieces:
        for rows in _read_piece(file, tensor, piece):
            turned = piece.spec.role in (Role.WQ, Role.WK)
            yield np.ascontiguousarray(_to_pairs(rows, head_dim) if turned else rows)


def _read_piece(file: ModelFile, tensor: _Tensor, piece: _Piece) -> Iterator[Bytes]:
    """Yield rows in the order of the model file: all those of q and k, whose order changes."""
    data, shape = file.data(piece.tensor)[piece.offset :], piece.spec.shape
    n, k = shape if len(shape) == 2 else (1, shape[0])
    if tensor.format == FLOAT32:
        yield tensor.type.rows(data[: 4 * n * k], n, k)
        return
    tiles, blocks = tile_counts(n, k)
    tile_bytes = FORMATS[tensor.format].tile_bytes
    panels = data[: tiles * blocks * tile_bytes].reshape(tiles, blocks, tile_bytes)
    whole = piece.spec.role in (Role.WQ, Role.WK)
    step = tiles if whole else max(1, _SLICE_BYTES // (blocks * tile_bytes))
    for first in range(0, tiles, step):
        some = panels[first : first + step]
        yield tensor.type.rows(some, min(len(some) * ROWS, n - first * ROWS), k)


def _to_pairs(rows: Bytes, head_dim: int) -> Bytes:
    """Reorder rows of q or k from RoPE's halves (i, i + head_dim/2) to pairs (2i, 2i+1)."""
    heads = rows.reshape(-1, 2, head_dim // 2, rows.shape[-1])
    return heads.swapaxes(1, 2).reshape(rows.shape)
