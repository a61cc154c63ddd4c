"""Two tiles of weights times many rows: prefill, where everything stays in the first-level cache.

384 columns of two tiles are unpacked to a panel of bytes (see `simd.panel`), so that they are
widened once and not for every row. Rows go over it in groups, each activation loaded once for both
tiles; the first group goes along with the unpacking, as a processor does both at once. Meanwhile
what comes next is fetched from memory, a line for each block: more at a time would hold up the
loads of rows.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cpumix.quant.tiles import BLOCK

from .blocks import InputRows, TilePair, rows_from
from .codecs.codec import Codec, IntegerCodec
from .compile.isa import active
from .compile.jit import kernel, specialised
from .gemm_small import fetch, token_rows
from .rows import INPUT_HEADER, LINE, SPARE_ROWS
from .simd import amx as amx
from .simd.level import TOKENS
from .simd.panel import PANEL_BLOCK, add_panel_block
from .simd.sums import sums_of
from .simd.vectors import Address

PANEL_BLOCKS = 12  # in a panel: 24 KiB at most, which leaves room for rows
MOST_ROWS = 192  # best of 128 to 512; with all pairs' totals they stay in a second-level cache
MOST_PAIRS = 8  # that go over the rows' columns together
# A thread's memory: the panel, AMX's sums, and each pair's totals for every row.
PANEL, SUMS, TOTALS = 0, PANEL_BLOCKS * PANEL_BLOCK, PANEL_BLOCKS * PANEL_BLOCK + amx.SUMS_BYTES
TOTALS_BYTES = (MOST_ROWS + SPARE_ROWS) * 128
SCRATCH_BYTES = TOTALS + MOST_PAIRS * TOTALS_BYTES

load_sums, store_sums = sums_of(TOKENS).load, sums_of(TOKENS).store


@kernel
def panel_rows(
    panel: Address, blocks: int, inputs: InputRows, totals: Address, next0: Address, next1: Address
) -> None:
    """Add a panel times TOKENS rows to their totals; meanwhile fetch lines from two places."""
    x, x_stride, header = inputs
    total = load_sums(totals)
    for b in range(blocks):
        fetch(next0 + LINE * b, next1 + LINE * b, 1)
        total = add_panel_block(total, panel, x, x_stride, header)
        panel, x, header = panel + PANEL_BLOCK, x + BLOCK, header + INPUT_HEADER
    store_sums(totals, total)


@lru_cache
def first_rows(codec: IntegerCodec) -> Any:
    """Make the kernel that unpacks two tiles, and does meanwhile what `panel_rows` does."""
    unpack, load_table, tile_bytes = codec.unpack, codec.load_table, codec.tile_bytes

    @specialised(kernel, codec.name)
    def first_rows(
        tiles: TilePair, panel: Address, inputs: InputRows, totals: Address, ahead: int
    ) -> None:
        w0, w1, blocks, book = tiles
        x, x_stride, header = inputs
        next0, next1 = w0 + ahead, w1 + ahead
        total, table = load_sums(totals), load_table(book)
        for _ in range(blocks):
            fetch(next0, next1, 1)
            unpack(w0, w1, table, panel)
            total = add_panel_block(total, panel, x, x_stride, header)
            w0, w1, next0, next1 = w0 + tile_bytes, w1 + tile_bytes, next0 + LINE, next1 + LINE
            panel, x, header = panel + PANEL_BLOCK, x + BLOCK, header + INPUT_HEADER
        store_sums(totals, total)

    return first_rows


def vector_rows(codec: IntegerCodec) -> Any:
    """Make `chunk_rows` of integers in vector registers."""
    unpack_rows, tile_bytes = first_rows(codec), codec.tile_bytes

    @specialised(kernel, codec.name)
    def vector_rows(
        tiles: TilePair, inputs: InputRows, rows: int, ahead: int, totals: Address, scratch: Address
    ) -> None:
        panel, lines = scratch + PANEL, LINE * tiles.blocks
        next0, next1 = tiles.w0 + ahead, tiles.w1 + ahead
        unpack_rows(tiles, panel, inputs, totals, ahead)
        # One line more, as tiles begin within lines.
        end = next0 + tiles.blocks * tile_bytes + LINE
        for row in range(TOKENS, rows, TOKENS):
            next0, next1 = next0 + lines, next1 + lines
            if next0 >= end:
                next0 = next1 = end = panel  # which is at hand
            place = rows_from(inputs, row)
            panel_rows(panel, tiles.blocks, place, totals + 128 * row, next0, next1)

    return vector_rows


def matrix_rows(codec: IntegerCodec) -> Any:
    """Make `chunk_rows` of integers in AMX's matrix registers."""
    unpack, load_table, tile_bytes = codec.unpack, codec.load_table, codec.tile_bytes

    @specialised(kernel, codec.name)
    def matrix_rows(
        tiles: TilePair, inputs: InputRows, rows: int, ahead: int, totals: Address, scratch: Address
    ) -> None:
        w0, w1, blocks, book = tiles
        panel, table = scratch + PANEL, load_table(book)
        for b in range(blocks):
            w = b * tile_bytes
            unpack(w0 + w, w1 + w, table, panel + b * PANEL_BLOCK)
        lines = blocks * tile_bytes // LINE * amx.INPUT_ROWS // rows + 1
        for row in range(0, rows, amx.INPUT_ROWS):
            fetch(w0 + ahead, w1 + ahead, lines)
            ahead += LINE * lines
            place = rows_from(inputs, row)
            amx.panel_rows(panel, blocks, place, totals + 128 * row, scratch + SUMS)

    return matrix_rows


def float_rows(codec: Codec) -> Any:
    """Make `chunk_rows` of a format without 8-bit activations, which needs no panel."""
    add_rows, tile_bytes = token_rows(codec, TOKENS, 0, 0), codec.tile_bytes

    @specialised(kernel, codec.name)
    def float_rows(
        tiles: TilePair, inputs: InputRows, rows: int, ahead: int, totals: Address, scratch: Address
    ) -> None:
        lines = tiles.blocks * tile_bytes // LINE * TOKENS // rows + 1
        for row in range(0, rows, TOKENS):
            fetch(tiles.w0 + ahead, tiles.w1 + ahead, lines)
            ahead += LINE * lines
            add_rows(tiles, rows_from(inputs, row), totals + 128 * row, 0)

    return float_rows


@lru_cache
def chunk_rows(codec: Codec) -> Any:
    """Make the kernel that adds up to PANEL_BLOCKS blocks of two tiles times all rows to totals.

    Meanwhile it asks for what lies `ahead` bytes behind both places: that comes next.
    """
    if not isinstance(codec, IntegerCodec):
        return float_rows(codec)
    return matrix_rows(codec) if active().name == "amx" else vector_rows(codec)
