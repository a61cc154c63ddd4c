"""Checks a model file: that it is as it was written, all numbers, and near its checkpoint's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .checkpoint import Checkpoint, SourceTensor
from .checkpoint.matrix import widen
from .config import Role
from .errors import ConvertError, FormatError
from .machine import machine_info
from .store import MappedTensor, ModelFile
from .store.bus_guard import guarded
from .store.matrices import FileMatrix, matrices_of

Progress = Callable[[int, int], None]
_SLICE_WEIGHTS = 1 << 20  # that are held as float32 and float64 together, by each thread


@dataclass(frozen=True)
class Difference:
    """How far a tensor's numbers are from the checkpoint's."""

    name: str
    format: str
    encoding: str
    """Of the checkpoint."""
    relative_rms: float
    """Root of the summed squares of the differences over those of the checkpoint's numbers."""


class _Sums(NamedTuple):
    """Summed squares of some rows."""

    differences: float
    numbers: float
    weights: int


def verify(file: ModelFile, progress: Progress | None = None) -> None:
    """Read a model file whole; FormatError names the first tensor that is not as it was written.

    Also refused are numbers that are none (NaN, infinity), which a file with right checksums has
    only if something went wrong before it was written.
    """

    def look(tensor: MappedTensor) -> None:
        for matrix in matrices_of(file, tensor):
            if not matrix.is_finite():
                raise FormatError(
                    f'"{file.path}": tensor "{matrix.spec.name}": expected finite numbers, found '
                    "NaN or infinity. Convert the checkpoint again, or get another one."
                )

    with guarded(file):
        file.verify(progress, look)


def compare(
    file: ModelFile, checkpoint: Checkpoint, progress: Progress | None = None
) -> tuple[list[Difference], float]:
    """Return each tensor's difference from the checkpoint, the largest first, and that of all.

    `progress` gets the weights done and those in all. Raises ConvertError if the checkpoint is of
    another model, or cannot be read.
    """
    own = [t for t in file.tensors.values() if t.spec.role is not Role.LOW_COPY]
    matrices = [m for t in own for m in matrices_of(file, t)]
    sources = checkpoint.tensors
    for matrix in matrices:
        name, shape = matrix.spec.name, matrix.spec.shape
        if name not in sources or sources[name].shape != shape:
            found = sources[name].shape if name in sources else "none"
            raise ConvertError(
                f'checkpoint: expected the one that "{file.path}" was made of, with a tensor '
                f'"{name}" of shape {shape}, found {found}. Name that checkpoint.'
            )
    total, done = sum(m.rows * m.columns for m in matrices), 0
    differences, all_sums = [], []
    with guarded(file), ThreadPoolExecutor(machine_info().physical_cores) as pool:
        for matrix in matrices:
            source = sources[matrix.spec.name]
            sums = list(pool.map(lambda job: _compare_rows(*job), _jobs(matrix, source)))
            differences.append(
                Difference(matrix.spec.name, matrix.format, source.encoding, _relative(sums))
            )
            all_sums += sums
            file.release(matrix.tensor)
            done += matrix.rows * matrix.columns
            if progress is not None:
                progress(done, total)
    differences.sort(key=lambda d: (-d.relative_rms, d.name))
    return differences, _relative(all_sums)


def _jobs(
    matrix: FileMatrix, source: SourceTensor
) -> Iterator[tuple[FileMatrix, SourceTensor, int, int]]:
    step = max(1, _SLICE_WEIGHTS // matrix.columns // 16) * 16
    for start in range(0, matrix.rows, step):
        yield matrix, source, start, min(start + step, matrix.rows)


def _compare_rows(matrix: FileMatrix, source: SourceTensor, start: int, stop: int) -> _Sums:
    ours = matrix.read(start, stop)
    if len(source.shape) == 1:
        theirs = widen(source.read_rows(0, source.shape[0]))[None]
    else:
        theirs = widen(source.read_rows(start, stop))
    difference = np.subtract(ours, theirs, dtype=np.float64).reshape(-1)
    numbers = theirs.astype(np.float64).reshape(-1)
    return _Sums(float(difference @ difference), float(numbers @ numbers), numbers.size)


def _relative(sums: Iterable[_Sums]) -> float:
    """Return the relative RMS of what the sums cover; what was 0 and is not differs wholly."""
    differences, numbers = (math.fsum(column) for column in list(zip(*sums, strict=True))[:2])
    return math.sqrt(differences / numbers) if numbers else float(differences > 0)
