"""What the kernels must equal, in NumPy: sums of integers exactly, floats within a bound.

Every bound is derived, none is measured: each rounding of a float32 operation moves its result by
at most `U` of its size, so a sum of n terms is off by at most n * U * sum(|terms|), in any order.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
from configs import model_config
from numpy.typing import NDArray

from cpumix.config import ModelConfig
from cpumix.kernels.compile.isa import VARIABLE, active
from cpumix.kernels.operands import Matmul, MatmulGroup, Residual, TiledMatrix
from cpumix.kernels.rows import Rows
from cpumix.quant import FORMATS, activations, tiles

U = 2.0**-24  # the largest relative error of rounding to float32
TINY = 2.0**-149  # the least float32: what an operation may lose on top, among subnormal numbers
SLACK = 1.01  # what products of (1 + U) add to a sum of U

# The level of this machine gets every example; one that CPUMIX_ISA forces gets a few, and the
# portable kernels small ones, for they are slow, and as plain Python 100 times slower.
FORCED = bool(os.environ.get(VARIABLE))
GENERIC = active().name == "generic"
WITHOUT_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"

INTEGER_FORMATS = [name for name in FORMATS if name != "bf16"]
KINDS = ("random", "zeros", "extremes", "outlier", "subnormal")


def hard(kind: str, n: int, k: int, seed: int) -> NDArray[np.float32]:
    """Return an (n, k) matrix of the kind of numbers that break kernels."""
    random = np.random.default_rng(seed)
    if kind == "zeros":
        return np.zeros((n, k), np.float32)
    if kind == "extremes":  # whole rows of one sign, so that sums are as large as they get
        signs = random.choice(np.array([-1, 1], np.float32), (n, 1))
        return signs * np.full((n, k), 127, np.float32)
    values = random.standard_normal((n, k)).astype(np.float32)
    if kind == "outlier":
        values[n // 2, k // 2] = 1e4
    if kind == "subnormal":
        values *= np.float32(1e-39)
    return values


def config(**changes: Any) -> ModelConfig:
    """Return a small model's shape, with these fields changed."""
    small = model_config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=4096,
    )
    return replace(small, **changes)


def rows_of(x: NDArray[np.float32], capacity: int | None = None) -> Rows:
    """Return a buffer that holds x and its codes, as the definition quantizes it."""
    out = Rows(capacity or len(x), x.shape[1])
    out.values[: len(x), : x.shape[1]] = x
    quantized = activations.quantize(x)
    blocks = quantized.scale.shape[1]
    out.codes[: len(x), : 32 * blocks] = quantized.codes
    out.headers[: len(x), :blocks] = headers(quantized.scale, quantized.start)
    return out


def headers(scale: NDArray[np.float32], start: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return what `Rows.headers` holds for blocks with these scales and starts."""
    power = 2.0 ** np.floor(np.log2(np.maximum(scale, 2.0**-126, dtype=np.float64)))
    power[scale < 2.0**-126] = 2.0**-127  # how the bits of a scale that is subnormal read
    centre = np.where(power < 2.0**105, 1.5 * 2.0**23 * power, np.nan).astype(np.float32)
    bits = [np.ascontiguousarray(x).view(np.int32) for x in (scale, start, centre)]
    return np.stack([*bits, bits[2] + bits[1]], axis=-1)


def with_unit_scales(name: str, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return tiles of an integer format with all scales 1; shift bits stay as they are."""
    plain, kind = tiles.copy(), FORMATS[name]
    if kind.scaling is None:
        plain[..., -32:].view(np.float16)[:] = 1
        return plain
    plain[:, : kind.head_bytes].view(np.float32)[:] = 1
    tails = plain[:, kind.head_bytes :].reshape(len(plain), -1, kind.tile_bytes)[..., -16:]
    tails[:] = tails & 1 | 2
    return plain


def split(matrix: TiledMatrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the integer weights (16 tiles, 32 blocks) and scales (16 tiles, blocks) of tiles."""
    count, blocks, kind = len(matrix.tiles), matrix.blocks, FORMATS[matrix.format]
    plain = with_unit_scales(matrix.format, matrix.tiles)
    codes = kind.dequantize(plain, 16 * count, 32 * blocks)
    if kind.scaling is None:
        scales = tiles.unpack_scales(matrix.tiles[..., -32:]).astype(np.float64)
    else:
        heads, panels = kind.scaling.tiles(matrix.tiles)
        s = np.ascontiguousarray(panels[..., -16:]).view(np.int8) >> 1
        scales = s.transpose(0, 2, 1).astype(np.float64) * heads[..., None]
    return codes.astype(np.float64), scales.reshape(16 * count, blocks)


def product(matrix: TiledMatrix, x: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return x (m, k) times the matrix (m, 16 tiles) in float64, and how far float32 may be off.

    8-bit rows: one block's sum is an exact integer; two products with scales and one addition
    follow for each of B blocks, and one product with the row's scale. Float rows: one product and
    one addition for each column.
    """
    count, blocks = len(matrix.tiles), matrix.blocks
    if not matrix.takes_codes:
        weights = FORMATS[matrix.format].dequantize(matrix.tiles, 16 * count, 32 * blocks)
        wide = np.zeros((len(x), 32 * blocks))
        wide[:, : x.shape[1]] = x
        size = np.abs(wide) @ np.abs(weights.T.astype(np.float64))
        bound = SLACK * U * (32 * blocks + 1) * size + 32 * blocks * TINY
        return wide @ weights.T.astype(np.float64), bound
    codes, scales = split(matrix)
    row = activations.quantize(x)
    left = row.codes.reshape(len(x), blocks, 32).transpose(1, 0, 2).astype(np.float64)
    right = codes.reshape(-1, blocks, 32).transpose(1, 2, 0)
    terms = (left @ right) * row.scale.T[:, :, None] * scales.T[:, None, :]  # (B, m, 16 tiles)
    return terms.sum(0), SLACK * U * (blocks + 3) * np.abs(terms).sum(0) + blocks * TINY


def quantize(e, x: Rows, n: int) -> None:
    """Fill the first n rows' codes from their values, as products with quantize_inputs do."""
    tiles = np.zeros((1, x.blocks, FORMATS["q8"].tile_bytes), np.uint8)
    out = np.zeros((n, 16), np.float32)
    e.multiply(MatmulGroup([Matmul(TiledMatrix("q8", tiles), x, 0, n, out)], quantize_inputs=True))


def nothing(rows: int) -> Residual:
    """Add nothing to so many rows."""
    return Residual(Rows(1, 1), np.zeros((rows, 0), np.int64), np.zeros((rows, 0), np.float32))
