"""Experts as views of the mapped file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpumix.kernels.operands import TiledMatrix
from cpumix.quant import FORMATS
from cpumix.quant.precision import parts_of
from cpumix.store.layout import TensorEntry
from cpumix.store.reader import ModelFile

Key = tuple[int, int]
"""(layer, expert)"""


class Expert(NamedTuple):
    """One expert of one layer: w2(silu(w1 x) * w3 x)."""

    w1: TiledMatrix
    w3: TiledMatrix
    w2: TiledMatrix


class FileRange(NamedTuple):
    """Where an expert lies in the file: w1 | w3 | w2, one contiguous range."""

    offset: int
    nbytes: int
    gate_up: int
    """The first bytes, w1 and w3: with them the first half of the work can begin."""


def as_matrix(data: NDArray[np.uint8], tensor: TensorEntry, n: int, k: int) -> TiledMatrix:
    """View a tensor of the dense part, an (n, k) matrix, as its tiles."""
    return as_part(data, tensor, tensor.format, n, k)


def as_part(data: NDArray[np.uint8], tensor: TensorEntry, kind: str, n: int, k: int) -> TiledMatrix:
    """View a part of a tensor, an (n, k) matrix of this format, as its tiles."""
    book = None if tensor.book is None else np.array(tensor.book, np.int8)
    return TiledMatrix(kind, data.reshape(FORMATS[kind].shape(n, k)), book)


def file_range(file: ModelFile, key: Key) -> FileRange:
    """Find an expert in the file."""
    tensor, config = file.tensors[file.expert_name(*key)], file.config
    gate_up, *_ = parts_of(tensor.format)
    part = FORMATS[gate_up].nbytes(config.intermediate_size, config.hidden_size)
    return FileRange(tensor.offset, tensor.nbytes, 2 * part)


def view(file: ModelFile, key: Key) -> Expert:
    """View an expert's weights; touches none of them."""
    name = file.expert_name(*key)
    return as_expert(file.data(name), file.tensors[name])


def as_expert(data: NDArray[np.uint8], tensor: TensorEntry) -> Expert:
    """View the bytes of an expert as its matrices."""
    _, inner, outer = tensor.shape
    gate_up, _, down = parts_of(tensor.format)
    part = FORMATS[gate_up].nbytes(inner, outer)
    return Expert(
        as_part(data[:part], tensor, gate_up, inner, outer),
        as_part(data[part : 2 * part], tensor, gate_up, inner, outer),
        as_part(data[2 * part :], tensor, down, outer, inner),
    )
