"""Makes the stored parts of quantized modules from codes, number by number, as definitions say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import write_shard
from numpy.typing import NDArray

from cpumix.checkpoint.containers import read_tensors
from cpumix.checkpoint.encodings import assemble
from cpumix.checkpoint.matrix import Matrix

Array = NDArray[Any]


def random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def stream(codes: Array, bits: int, word: str = "<u4") -> Array:
    """Pack the last dimension as a little-endian stream of bits, code by code."""
    rows = codes.reshape(-1, codes.shape[-1])
    packed = []
    for row in rows.tolist():
        number = sum(code << i * bits for i, code in enumerate(row))
        size = -(-len(row) * bits // (8 * np.dtype(word).itemsize)) * np.dtype(word).itemsize
        packed.append(np.frombuffer(number.to_bytes(size, "little"), word))
    return np.stack(packed).reshape(*codes.shape[:-1], -1)


def bf16(values: Array) -> NDArray[np.uint16]:
    """Cut float32 values to the bits of bfloat16."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def widen(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def assembled(
    folder: Path,
    encoding: str,
    parts: Mapping[str, Array],
    settings: Mapping[str, Any] | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> dict[str, Matrix]:
    """Write parts to a safetensors file and return the matrices that an encoding makes of them."""
    write_shard(folder / "x.safetensors", parts, dtypes)
    return assemble(read_tensors(folder / "x.safetensors"), encoding, settings or {})


def check(matrix: Matrix, expected: Array, steps: tuple[int, ...] = (1, 3, 16, 1000)) -> None:
    """Compare a matrix, read in slices of several sizes, with its values bit for bit."""
    assert matrix.shape == expected.shape
    flat = expected.astype(np.float32).reshape(-1, expected.shape[-1])
    for step in steps:
        for start in range(0, len(flat), step):
            rows = matrix.read_rows(start, min(start + step, len(flat)))
            assert rows.dtype == np.float32
            assert np.array_equal(rows, flat[start : start + step], equal_nan=True), (start, step)
