"""Two tiles of weights times a few rows: too few to make up for unpacking a panel.

Weights stream from memory as in `matvec`, and are widened in registers once for TOKENS rows; for
more rows than these, two tiles are read again, from the second-level cache, while the next two are
fetched. As a block keeps a group of rows busy for longer than one row, the processor's own
prefetchers do not look far enough ahead: where few rows leave no time to fetch the next tiles, the
first group asks for what comes FETCH_BYTES later.
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
FETCHING_GROUPS = 3  # of rows together fetch all of the next two tiles
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
def token_rows(codec: Codec, tokens: int, lines: int, step: int) -> Any:
    """Make the kernel that adds two tiles times `tokens` rows to their totals.

    With each block it fetches `lines` of both tiles from `ahead` bytes behind them on, and goes on
    there by `step` bytes.
    """
    add_block, load_table = codec.add_block(tokens), codec.load_table
    tile_bytes, x_bytes, sums = codec.tile_bytes, codec.x_bytes, sums_of(tokens)
    load_sums, store_sums = sums.load, sums.store

    @specialised(kernel, f"{tokens}_{lines}_{step}_{codec.name}")
    def token_rows(tiles: TilePair, inputs: InputRows, totals: Address, ahead: int) -> None:
        w0, w1, blocks, book = tiles
        x, x_stride, header = inputs
        total, table = load_sums(totals), load_table(book)
        place, apart = w0 + ahead, w1 - w0  # one place that moves takes fewer registers than two
        for _ in range(blocks):
            fetch(place, place + apart, lines)
            total = add_block(total, w0, w1, table, x, x_stride, header)
            w0, w1, place = w0 + tile_bytes, w1 + tile_bytes, place + step
            x, header = x + x_bytes, header + INPUT_HEADER
        store_sums(totals, total)

    return token_rows


@lru_cache
def few_rows(codec: Codec) -> Any:
    """Make the kernel that adds two tiles times a few rows to their totals.

    Meanwhile it asks for what lies `ahead` bytes behind both tiles: that comes next.
    """
    lines = -(-codec.tile_bytes // LINE)
    some = -(-lines // FETCHING_GROUPS)
    add_first = token_rows(codec, TOKENS, lines, codec.tile_bytes)
    add_next = token_rows(codec, TOKENS, some, LINE * some)
    add_last = token_rows(codec, PAIR, 0, 0)

    @specialised(kernel, codec.name)
    def few_rows(
        tiles: TilePair, inputs: InputRows, rows: int, ahead: int, totals: Address
    ) -> None:
        row, fetched = 0, LINE * some * tiles.blocks
        if rows <= 2 * TOKENS:  # these tiles are not there yet, and memory is the limit
            add_first(tiles, inputs, totals, FETCH_BYTES)
            row = TOKENS
        while row < rows:
            place = rows_from(inputs, row)
            if rows - row > PAIR:
                add_next(tiles, place, totals + 128 * row, ahead)
            else:
                add_last(tiles, place, totals + 128 * row, 0)
            row, ahead = row + TOKENS, ahead + fetched

    return few_rows
