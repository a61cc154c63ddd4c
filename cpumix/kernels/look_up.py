"""Rows of a weight matrix as float32: the embeddings of a batch's tokens."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpumix.quant.tiles import BLOCK, TILE_ROWS

from .codecs.codec import Codec
from .compile.jit import kernel, specialised
from .simd.vectors import Address, address, load_f32, splat

Floats = NDArray[np.float32]


@lru_cache
def look_up(codec: Codec) -> Any:
    """Make the kernel that widens rows of a matrix.

    Shapes: w0, step, book: see `jobs.MatrixFields` | ids (m,) i64 | out (m, columns) f32, whole
            blocks.
    """
    decode, load_table = codec.decode, codec.load_table
    head, tile_bytes = codec.head_bytes, codec.tile_bytes

    @specialised(kernel, codec.name)
    def look_up_row(tile: Address, row: int, book: Address, wide: Floats, out: Floats) -> None:
        table, scales = load_table(book), splat(np.float32(1))
        if head:  # a constant: the scales of rows stand before their tiles
            scales = load_f32(tile - head)
        for b in range(out.shape[0] // BLOCK):
            decode(tile + b * tile_bytes, table, scales, address(wide))
            for column in range(BLOCK):
                out[BLOCK * b + column] = wide[column, row]

    @specialised(kernel, codec.name)
    def look_up(w0: Address, step: int, book: Address, ids: NDArray[np.int64], out: Floats) -> None:
        wide = np.empty((BLOCK, TILE_ROWS), np.float32)
        for i in range(ids.shape[0]):
            tile = w0 + ids[i] // TILE_ROWS * step
            look_up_row(tile, ids[i] % TILE_ROWS, book, wide, out[i])

    return look_up
