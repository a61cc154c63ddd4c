"""Two tiles of weights times many rows: prefill, where everything stays in the first-level cache.

384 columns of two tiles are unpacked to a panel of bytes, so that nibbles are widened once and not
for every row. Then rows go over it in groups, each activation loaded once for both tiles, while the
tiles' next columns come from memory.

A panel's block is 8 x 2 x 64 bytes of codes, the two tiles side by side, and 2 x 16 float32 scales;
or eight multiples of these, where the level scales by `simd_multiples`.
"""

from __future__ import annotations

from ..quant import bf16, q4, q8
from ..quant.tiles import BLOCK
from . import simd_amx as amx
from . import simd_multiples as multiples
from .isa import active
from .jit import kernel
from .rows import HEADER_BYTES, SPARE_ROWS
from .simd import (
    Address,
    Lanes,
    load_f16,
    load_f32,
    load_i32,
    prefetch_l2,
    store_f32,
    store_i32,
)
from .simd_lanes import high_nibbles, low_nibbles
from .simd_level import (
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
from .skinny import rows_bf16

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


@kernel
def store_scales(p: Address, scales: Lanes) -> None:
    """Store one tile's scales, or all multiples of them."""
    if MULTIPLES:
        multiples.store_multiples(p, scales)
    else:
        store_f32(p, scales)


@kernel
def unpack_q8(w: Address, blocks: int, panel: Address) -> None:
    """Copy one tile's blocks to its half of a panel; scales become float32."""
    for _ in range(blocks):
        for g in range(8):
            store_i32(panel + 128 * g, panel_codes(weights(load_i32(w + 64 * g))))
        store_scales(panel + CODES, load_f16(w + 512))
        w, panel = w + Q8_BYTES, panel + PANEL_BLOCK


@kernel
def unpack_q4(w: Address, blocks: int, panel: Address) -> None:
    """Widen one tile's nibbles to bytes in its half of a panel; scales become float32."""
    table = code_book()
    for _ in range(blocks):
        for g in range(4):
            packed = load_i32(w + 64 * g)
            store_i32(panel + 256 * g, panel_codes(lookup(table, low_nibbles(packed))))
            store_i32(panel + 256 * g + 128, panel_codes(lookup(table, high_nibbles(packed))))
        store_scales(panel + CODES, load_f16(w + 256))
        w, panel = w + Q4_BYTES, panel + PANEL_BLOCK


@kernel
def panel_rows(
    panel: Address, blocks: int, x: Address, x_stride: int, header: Address, totals: Address
) -> None:
    """Add a panel times TOKENS rows to their totals."""
    stride = x_stride // BLOCK * HEADER_BYTES
    total = load_sums(totals)
    for _ in range(blocks):
        if MULTIPLES:
            acc = multiples.start_at_centre(header, stride)
        else:
            acc = start_dots(header, stride)
        for g in range(8):
            w = panel + 128 * g
            acc = dot4_tokens(acc, load_i32(w), load_i32(w + 64), x + 4 * g, x_stride)
        if MULTIPLES:
            total = multiples.add_multiples(total, acc, panel + CODES, header, stride)
        else:
            w0, w1 = load_f32(panel + CODES), load_f32(panel + CODES + 64)
            total = scale_tokens(total, acc, w0, w1, header, stride)
        panel, x, header = panel + PANEL_BLOCK, x + BLOCK, header + HEADER_BYTES
    store_sums(totals, total)


@kernel
def integer_rows(
    panel: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    header: Address,
    totals: Address,
    sums: Address,
) -> None:
    """Add a panel times some rows to their totals, in the level's own way."""
    if AMX:  # a constant, so that a level need not compile what it does not use
        amx.panel_rows(panel, blocks, x, x_stride, header, totals, sums)
    else:
        panel_rows(panel, blocks, x, x_stride, header, totals)


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
    panel = scratch + PANEL
    if tile_bytes == Q4_BYTES:
        unpack_q4(w0, blocks, panel)
        unpack_q4(w1, blocks, panel + 64)
    elif tile_bytes == Q8_BYTES:
        unpack_q8(w0, blocks, panel)
        unpack_q8(w1, blocks, panel + 64)
    step = 16 if AMX and tile_bytes != BF16_BYTES else TOKENS
    share = (blocks * tile_bytes * step // rows + 63) // 64 * 64
    fetched = ahead
    for row in range(0, rows, step):
        for line in range(fetched, min(fetched + share, ahead + blocks * tile_bytes), 64):
            prefetch_l2(w0 + line)
            prefetch_l2(w1 + line)
        fetched += share
        values, total = x + row * x_stride, totals + 128 * row
        numbers = header + row * (x_stride // BLOCK * HEADER_BYTES)
        if tile_bytes == BF16_BYTES:
            rows_bf16(w0, w1, blocks, values, x_stride, total)
        else:
            integer_rows(panel, blocks, values, x_stride, numbers, total, scratch + SUMS)
