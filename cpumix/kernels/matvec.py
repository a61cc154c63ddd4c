"""Two tiles of weights times one row: decode, where weights stream from memory through registers.

One lane is one output row of the matrix. Both tiles' streams are in order; what comes FETCH_BYTES
later is asked for, as the processor's own prefetchers keep pace with slow memory only.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from .blocks import InputRows, TilePair
from .codecs.codec import Codec
from .compile.jit import kernel, specialised
from .gemm_small import FETCH_BYTES, fetch
from .rows import INPUT_HEADER, LINE
from .simd.sums import sums_of
from .simd.vectors import Address

SUMS = sums_of(1)
no_sums, store_sums = SUMS.zero, SUMS.store


@lru_cache
def one_row(codec: Codec) -> Any:
    """Make the kernel for a format: it stores 2 x 16 float32 sums at `totals`."""
    add_block, load_table = codec.add_block(1), codec.load_table
    tile_bytes, x_bytes = codec.tile_bytes, codec.x_bytes
    lines = -(-tile_bytes // LINE)

    @specialised(kernel, codec.name)
    def one_row(tiles: TilePair, inputs: InputRows, totals: Address) -> None:
        w0, w1, blocks, book = tiles
        x, x_stride, header = inputs
        total, table = no_sums(), load_table(book)
        for _ in range(blocks):
            fetch(w0 + FETCH_BYTES, w1 + FETCH_BYTES, lines)
            total = add_block(total, w0, w1, table, x, x_stride, header)
            w0, w1, x, header = (
                w0 + tile_bytes,
                w1 + tile_bytes,
                x + x_bytes,
                header + INPUT_HEADER,
            )
        store_sums(totals, total)

    return one_row
