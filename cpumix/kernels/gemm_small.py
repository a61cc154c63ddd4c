"""Two tiles of weights times a few rows: too few to make up for unpacking a panel.

Weights stream from memory as in `matvec`, and are widened in registers once for TOKENS rows; for
more rows than these, two tiles are read again, from the second-level cache. As a block keeps a
group of rows busy for longer than one row, the processor's own prefetchers do not look far enough
ahead: the first group asks for what comes FETCH_BYTES later.
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

FETCH_BYTES = 4096  # ahead; 2048 to 16384 do as well
PAIR = 2  # rows that are left at the end: TOKENS would be multiplied for nothing
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
def token_rows(codec: Codec, tokens: int, ahead: int) -> Any:
    """Make the kernel that adds two tiles times `tokens` rows to their totals.

    With each block it fetches what lies `ahead` bytes behind, nothing if that is 0.
    """
    add_block, load_table = codec.add_block(tokens), codec.load_table
    tile_bytes, x_bytes, sums = codec.tile_bytes, codec.x_bytes, sums_of(tokens)
    load_sums, store_sums = sums.load, sums.store
    lines = -(-tile_bytes // LINE) if ahead else 0

    @specialised(kernel, f"{tokens}_{ahead}_{codec.name}")
    def token_rows(tiles: TilePair, inputs: InputRows, totals: Address) -> None:
        w0, w1, blocks, book = tiles
        x, x_stride, header = inputs
        total, table = load_sums(totals), load_table(book)
        next0, next1 = w0 + ahead, w1 + ahead
        for _ in range(blocks):
            fetch(next0, next1, lines)
            total = add_block(total, w0, w1, table, x, x_stride, header)
            w0, w1, next0, next1 = (
                w0 + tile_bytes,
                w1 + tile_bytes,
                next0 + tile_bytes,
                next1 + tile_bytes,
            )
            x, header = x + x_bytes, header + INPUT_HEADER
        store_sums(totals, total)

    return token_rows


@lru_cache
def few_rows(codec: Codec) -> Any:
    """Make the kernel that adds two tiles times a few rows to their totals."""
    add_first = token_rows(codec, TOKENS, FETCH_BYTES)
    add_next, add_last = token_rows(codec, TOKENS, 0), token_rows(codec, PAIR, 0)

    @specialised(kernel, codec.name)
    def few_rows(tiles: TilePair, inputs: InputRows, rows: int, totals: Address) -> None:
        add_first(tiles, inputs, totals)
        for row in range(TOKENS, rows, TOKENS):
            place = rows_from(inputs, row)
            if rows - row > PAIR:
                add_next(tiles, place, totals + 128 * row)
            else:
                add_last(tiles, place, totals + 128 * row)

    return few_rows
