"""A checkpoint, as the converter sees it: tensors under canonical names, each read by rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cpumix.config import ModelConfig, TensorSpec

from .matrix import Coded, Matrix, code_values, files_of, read_codes
from .namings import Naming


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of the model, or the part of a fused one that is it."""

    spec: TensorSpec
    """What it is there, and its canonical name."""
    source_name: str
    """The whole tensor's name in the checkpoint; errors say this one."""
    matrix: Matrix

    @property
    def name(self) -> str:
        """Its canonical name."""
        return self.spec.name

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns), or (rows,) of a norm."""
        return self.matrix.shape

    @property
    def path(self) -> Path:
        """The file that holds it."""
        return self.matrix.path

    @property
    def paths(self) -> frozenset[Path]:
        """All files that it is read from."""
        return files_of(self.matrix)

    @property
    def encoding(self) -> str:
        """How the checkpoint stores it: "BF16", "Q4_K"."""
        return self.matrix.encoding

    @property
    def nbytes(self) -> int:
        """Size in the checkpoint, in bytes."""
        return self.matrix.nbytes

    @cached_property
    def code_values(self) -> tuple[int, ...] | None:
        """Which codes it can have, None if that is not known. May read a part of it, once."""
        return code_values(self.matrix)

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        """Return rows start..stop as uint16 (the bits of bfloat16), float16 or float32.

        Any number of threads may read at once. Raises ConvertError when the file has changed.
        """
        assert 0 <= start <= stop <= self.shape[0], (start, stop, self.shape)
        return self.matrix.read_rows(start, stop)

    def read_codes(self, start: int, stop: int) -> Coded | None:
        """Return the same rows as codes and scales, None where that is not exact."""
        return read_codes(self.matrix, start, stop)


@dataclass(frozen=True)
class Contents:
    """What a source holds, before its tensors are matched with the model's."""

    path: Path
    """Folder or file; errors say it."""
    config: ModelConfig
    matrices: dict[str, Matrix]
    """By their names there."""
    namings: tuple[Naming, ...]
    """Those that may occur, the likeliest first."""
    files: Mapping[str, bytes]
    """The tokenizer and what belongs to it, by file name."""
    notes: tuple[str, ...] = ()
    """A sentence for each side file that could not be read and was left out."""
    vocabulary: str = ""
    """What the tokenizer is, where it is no file of its own."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every name, shape, dtype and size has been checked."""

    config: ModelConfig
    tensors: Mapping[str, SourceTensor]
    """By canonical name, in the order of `ModelConfig.tensors`."""
    files: Mapping[str, bytes]
    """Side files by name, such as "tokenizer.model"."""
    source_bytes: int
    """Of the weights."""
    notes: tuple[str, ...] = ()
    """A sentence for each side file that could not be read and was left out."""
    vocabulary: str = ""
    """What the tokenizer is, where it is no file of its own."""
