"""Two tiles of weights times a few rows: too few to make up for unpacking a panel.

Weights stream from memory as in `matvec`, and are widened in registers once for TOKENS rows; for
more rows than these, two tiles are read again, from the second-level cache, while the next two are
fetched: all groups of rows together ask for all or most of their lines.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from .blocks import InputRows, TilePair, rows_from
from .codecs.codec import Codec
from .compile.isa import active
from .compile.jit import inlined, kernel, specialised
from .rows import INPUT_HEADER, LINE
from .simd.level import LEVEL, TOKENS
from .simd.sums import sums_of
from .simd.vectors import Address, prefetch_l2

SUMS = sums_of(TOKENS)
load_sums, store_sums = SUMS.load, SUMS.store
# With 16 registers, sums of two tiles and their totals would not stay in them.
SEVERAL_AT_ONCE = LEVEL.registers == 32
FEW_ROWS = (
    (8 if active().name == "amx" else 8 * TOKENS) if SEVERAL_AT_ONCE else 3
)  # at most: with more, a panel is faster


@inlined
def fetch(next0: Address, next1: Address, lines: int) -> None:
    """Ask for lines from two places."""
    for i in range(lines):
        prefetch_l2(next0 + LINE * i)
        prefetch_l2(next1 + LINE * i)


@lru_cache
def token_rows(codec: Codec) -> Any:
    """Make the kernel that adds two tiles times TOKENS rows to their totals.

    It fetches `codec.lines` lines for each block from two places.
    """
    add_block, load_table = codec.add_block(TOKENS), codec.load_table
    tile_bytes, x_bytes, lines = codec.tile_bytes, codec.x_bytes, codec.lines

    @specialised(kernel, codec.name)
    def token_rows(
        tiles: TilePair, inputs: InputRows, totals: Address, next0: Address, next1: Address
    ) -> None:
        w0, w1, blocks, book = tiles
        x, x_stride, header = inputs
        total, table = load_sums(totals), load_table(book)
        for _ in range(blocks):
            fetch(next0, next1, lines)
            total = add_block(total, w0, w1, table, x, x_stride, header)
            w0, w1, x, header = (
                w0 + tile_bytes,
                w1 + tile_bytes,
                x + x_bytes,
                header + INPUT_HEADER,
            )
            next0, next1 = next0 + LINE * lines, next1 + LINE * lines
        store_sums(totals, total)

    return token_rows


@lru_cache
def few_rows(codec: Codec) -> Any:
    """Make the kernel that adds two tiles times a few rows to their totals.

    Meanwhile it fetches what lies `ahead` bytes behind both tiles, if there is time: with one group
    of rows, memory is the limit as it is.
    """
    add_rows, lines = token_rows(codec), codec.lines

    @specialised(kernel, codec.name)
    def few_rows(
        tiles: TilePair, inputs: InputRows, rows: int, ahead: int, totals: Address
    ) -> None:
        next0, next1 = tiles.w0, tiles.w1
        if rows > TOKENS:
            next0, next1 = next0 + ahead, next1 + ahead
        for row in range(0, rows, TOKENS):
            add_rows(tiles, rows_from(inputs, row), totals + 128 * row, next0, next1)
            fetched = LINE * lines * tiles.blocks
            next0, next1 = next0 + fetched, next1 + fetched

    return few_rows
