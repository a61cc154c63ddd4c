"""Two tiles of weights times many rows: prefill, where everything stays in the first-level cache.

384 columns of two tiles are unpacked to a panel of bytes, so that nibbles are widened once and not
for every row. Rows go over it in groups, each activation loaded once for both tiles; the first
group goes along with the unpacking, as a processor does both at once. Meanwhile what comes next is
fetched from memory, a line for each block: more at a time would hold up the loads of rows.

A panel's block is 8 x 2 x 64 bytes of codes, the two tiles side by side, and 2 x 16 float32 scales;
or eight multiples of these, where the level scales by `simd_multiples`.
"""

from __future__ import annotations

from cpumix.quant import bf16, q4, q8
from cpumix.quant.tiles import BLOCK

from .compile.isa import active
from .compile.jit import inlined, kernel
from .gemm_small import fetch, rows_bf16
from .rows import HEADER_BYTES, LINE, SPARE_ROWS
from .simd import amx as amx
from .simd import multiples as multiples
from .simd.lanes import high_nibbles, low_nibbles
from .simd.level import (
    LEVEL,
    TOKENS,
    code_book,
    dot4_tokens,
    load_sums,
    lookup,
    panel_codes,
    scale_tokens,
    start_dots,
    store_sums,
    weights,
)
from .simd.vectors import Address, Lanes, load_f16, load_f32, load_i32, store_f32, store_i32

Q4_BYTES, Q8_BYTES, BF16_BYTES = q4.TILE_BYTES, q8.TILE_BYTES, bf16.TILE_BYTES
AMX = active().name == "amx"

CHUNK = 12  # blocks in a panel: 24 KiB at most, which leaves room for rows
CODES = 1024  # bytes of a block's codes; scales follow
MULTIPLES = LEVEL.multiples
PANEL_BLOCK = CODES + (multiples.COUNT * multiples.BYTES if MULTIPLES else 128)
MOST_ROWS = 192  # best of 128 to 512; with all pairs' totals they stay in a second-level cache
MOST_PAIRS = 8  # that go over the rows' columns together
# A thread's memory: the panel, AMX's sums, and each pair's totals for every row.
PANEL, SUMS, TOTALS = 0, CHUNK * PANEL_BLOCK, CHUNK * PANEL_BLOCK + amx.SUMS_BYTES
TOTALS_BYTES = (MOST_ROWS + SPARE_ROWS) * 128
SCRATCH_BYTES = TOTALS + MOST_PAIRS * TOTALS_BYTES


@inlined
def store_scales(p: Address, scales: Lanes) -> None:
    """Store one tile's scales, or all multiples of them."""
    if MULTIPLES:
        multiples.store_multiples(p, scales)
    else:
        store_f32(p, scales)


@inlined
def unpack_q8(w: Address, panel: Address) -> None:
    """Copy one tile's block to its half of a panel; scales become float32."""
    for g in range(8):
        store_i32(panel + 128 * g, panel_codes(weights(load_i32(w + 64 * g))))
    store_scales(panel + CODES, load_f16(w + 512))


@inlined
def unpack_q4(w: Address, panel: Address) -> None:
    """Widen one tile's block of nibbles to bytes in its half of a panel; scales become float32."""
    table = code_book()
    for g in range(4):
        packed = load_i32(w + 64 * g)
        store_i32(panel + 256 * g, panel_codes(lookup(table, low_nibbles(packed))))
        store_i32(panel + 256 * g + 128, panel_codes(lookup(table, high_nibbles(packed))))
    store_scales(panel + CODES, load_f16(w + 256))


@inlined
def unpack(tile_bytes: int, w0: Address, w1: Address, panel: Address) -> None:
    """Unpack a block of two tiles."""
    if tile_bytes == Q4_BYTES:
        unpack_q4(w0, panel)
        unpack_q4(w1, panel + 64)
    else:
        unpack_q8(w0, panel)
        unpack_q8(w1, panel + 64)


@inlined
def add_block(
    total: Lanes, panel: Address, x: Address, x_stride: int, header: Address, stride: int
) -> Lanes:
    """Add a panel's block times TOKENS rows, whose headers lie `stride` apart, to their totals."""
    # Constants, so that a level need not compile what it does not use.
    if MULTIPLES:
        acc = multiples.start_at_centre(header, stride)
    else:
        acc = start_dots(header, stride)
    for g in range(8):
        w = panel + 128 * g
        acc = dot4_tokens(acc, load_i32(w), load_i32(w + 64), x + 4 * g, x_stride)
    if MULTIPLES:
        return multiples.add_multiples(total, acc, panel + CODES, header, stride)
    else:  # else, as numba would compile what merely follows
        w0, w1 = load_f32(panel + CODES), load_f32(panel + CODES + 64)
        return scale_tokens(total, acc, w0, w1, header, stride)


@kernel
def first_rows(
    tile_bytes: int,
    w0: Address,
    w1: Address,
    panel: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    header: Address,
    totals: Address,
    next0: Address,
    next1: Address,
) -> None:
    """Unpack two tiles, and do meanwhile what `panel_rows` does."""
    stride = x_stride // BLOCK * HEADER_BYTES
    total = load_sums(totals)
    for _ in range(blocks):
        fetch(next0, next1, 1)
        unpack(tile_bytes, w0, w1, panel)
        total = add_block(total, panel, x, x_stride, header, stride)
        w0, w1, next0, next1 = w0 + tile_bytes, w1 + tile_bytes, next0 + LINE, next1 + LINE
        panel, x, header = panel + PANEL_BLOCK, x + BLOCK, header + HEADER_BYTES
    store_sums(totals, total)


@kernel
def panel_rows(
    panel: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    header: Address,
    totals: Address,
    next0: Address,
    next1: Address,
) -> None:
    """Add a panel times TOKENS rows to their totals; meanwhile fetch lines from two places."""
    stride = x_stride // BLOCK * HEADER_BYTES
    total = load_sums(totals)
    for b in range(blocks):
        fetch(next0 + LINE * b, next1 + LINE * b, 1)
        total = add_block(total, panel, x, x_stride, header, stride)
        panel, x, header = panel + PANEL_BLOCK, x + BLOCK, header + HEADER_BYTES
    store_sums(totals, total)


@kernel
def vector_rows(
    tile_bytes: int,
    w0: Address,
    w1: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    header: Address,
    rows: int,
    ahead: int,
    totals: Address,
    panel: Address,
) -> None:
    """`chunk_rows` of integers in vector registers."""
    stride = x_stride // BLOCK * HEADER_BYTES
    next0, next1, lines = w0 + ahead, w1 + ahead, LINE * blocks
    first_rows(tile_bytes, w0, w1, panel, blocks, x, x_stride, header, totals, next0, next1)
    end = next0 + blocks * tile_bytes + LINE  # one line more, as tiles begin within lines
    for row in range(TOKENS, rows, TOKENS):
        next0, next1 = next0 + lines, next1 + lines
        if next0 >= end:
            next0 = next1 = end = panel  # which is at hand
        place, total = x + row * x_stride, totals + 128 * row
        panel_rows(panel, blocks, place, x_stride, header + row * stride, total, next0, next1)


@kernel
def matrix_rows(
    tile_bytes: int,
    w0: Address,
    w1: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    header: Address,
    rows: int,
    ahead: int,
    totals: Address,
    scratch: Address,
) -> None:
    """`chunk_rows` of integers in AMX's matrix registers."""
    panel, stride = scratch + PANEL, x_stride // BLOCK * HEADER_BYTES
    for b in range(blocks):
        w = b * tile_bytes
        unpack(tile_bytes, w0 + w, w1 + w, panel + b * PANEL_BLOCK)
    lines = blocks * tile_bytes // LINE * amx.ROWS // rows + 1
    for row in range(0, rows, amx.ROWS):
        fetch(w0 + ahead, w1 + ahead, lines)
        ahead += LINE * lines
        place, numbers, total = x + row * x_stride, header + row * stride, totals + 128 * row
        amx.panel_rows(panel, blocks, place, x_stride, numbers, total, scratch + SUMS)


@kernel
def float_rows(
    w0: Address,
    w1: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    rows: int,
    ahead: int,
    totals: Address,
) -> None:
    """`chunk_rows` of bfloat16, which needs no panel."""
    lines = blocks * BF16_BYTES // LINE * TOKENS // rows + 1
    for row in range(0, rows, TOKENS):
        fetch(w0 + ahead, w1 + ahead, lines)
        ahead += LINE * lines
        rows_bf16(w0, w1, blocks, x + row * x_stride, x_stride, totals + 128 * row)


@kernel
def chunk_rows(
    tile_bytes: int,
    w0: Address,
    w1: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    header: Address,
    rows: int,
    ahead: int,
    totals: Address,
    scratch: Address,
) -> None:
    """Add up to CHUNK blocks of two tiles times all rows to the totals.

    Meanwhile ask for what lies `ahead` bytes behind both places: it comes next.
    """
    if tile_bytes == BF16_BYTES:
        float_rows(w0, w1, blocks, x, x_stride, rows, ahead, totals)
    elif AMX:
        matrix_rows(
            tile_bytes, w0, w1, blocks, x, x_stride, header, rows, ahead, totals, scratch
        )  # fmt: skip
    else:
        vector_rows(
            tile_bytes, w0, w1, blocks, x, x_stride, header, rows, ahead, totals, scratch + PANEL
        )  # fmt: skip
