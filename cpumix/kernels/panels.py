"""Two tiles of weights times many rows: prefill, where everything stays in the first-level cache.

512 columns of two tiles are unpacked to a panel of bytes, so that nibbles are widened once and not
for every row. Then rows go over it in groups, each activation loaded once for both tiles.

A panel's block is 8 x 2 x 64 bytes of codes, the two tiles side by side, and 2 x 16 float32 scales.
"""

from __future__ import annotations

from ..quant import bf16, q4, q8
from ..quant.tiles import BLOCK
from . import simd_amx as amx
from .isa import active
from .jit import kernel
from .simd import (
    Address,
    load_f16,
    load_f32,
    load_i32,
    store_f32,
    store_i32,
)
from .simd_lanes import high_bf16, high_nibbles, low_bf16, low_nibbles
from .simd_level import (
    TOKENS,
    code_book,
    dot4_tokens,
    fma_tokens,
    load_sums,
    lookup,
    panel_codes,
    scale_tokens,
    start_dots,
    store_sums,
    weights,
)

Q4_BYTES, Q8_BYTES, BF16_BYTES = q4.TILE_BYTES, q8.TILE_BYTES, bf16.TILE_BYTES
AMX = active().name == "amx"

CHUNK = 16  # blocks in a panel: 18 KiB, which leaves room for rows in a 32 KiB first-level cache
PANEL_BLOCK = amx.PANEL_BLOCK
MOST_ROWS = 192  # at 4096 columns their codes take 0.8 MB: they stay in a second-level cache
SPARE_ROWS = 16  # the last group of rows may be this much shorter than a group
# A thread's memory: the panel, AMX's sums, and two tiles' totals for every row.
PANEL, SUMS, TOTALS = 0, CHUNK * PANEL_BLOCK, CHUNK * PANEL_BLOCK + amx.SUMS_BYTES
SCRATCH_BYTES = TOTALS + (MOST_ROWS + SPARE_ROWS) * 128


@kernel
def unpack_q8(w: Address, blocks: int, panel: Address) -> None:
    """Copy one tile's blocks to its half of a panel; scales become float32."""
    for _ in range(blocks):
        for g in range(8):
            store_i32(panel + 128 * g, panel_codes(weights(load_i32(w + 64 * g))))
        store_f32(panel + 1024, load_f16(w + 512))
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
        store_f32(panel + 1024, load_f16(w + 256))
        w, panel = w + Q4_BYTES, panel + PANEL_BLOCK


@kernel
def panel_rows(
    panel: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    scale: Address,
    start: Address,
    totals: Address,
) -> None:
    """Add a panel times TOKENS rows to their totals."""
    scale_stride = x_stride // 8  # a float32 scale (and an int32 start) for every 32 bytes of codes
    total = load_sums(totals)
    for b in range(blocks):
        acc = start_dots(start + 4 * b, scale_stride)
        for g in range(8):
            w = panel + 128 * g
            acc = dot4_tokens(acc, load_i32(w), load_i32(w + 64), x + 4 * g, x_stride)
        w0, w1 = load_f32(panel + 1024), load_f32(panel + 1088)
        total = scale_tokens(total, acc, w0, w1, scale + 4 * b, scale_stride)
        panel, x = panel + PANEL_BLOCK, x + BLOCK
    store_sums(totals, total)


@kernel
def bf16_rows(
    w0: Address, w1: Address, blocks: int, x: Address, x_stride: int, totals: Address
) -> None:
    """Add two bfloat16 tiles times TOKENS float32 rows to their totals, in column order."""
    total = load_sums(totals)
    for g in range(16 * blocks):
        p0, p1 = load_i32(w0 + 64 * g), load_i32(w1 + 64 * g)
        total = fma_tokens(total, low_bf16(p0), low_bf16(p1), x + 8 * g, x_stride)
        total = fma_tokens(total, high_bf16(p0), high_bf16(p1), x + 8 * g + 4, x_stride)
    store_sums(totals, total)


@kernel
def chunk_rows(
    tile_bytes: int,
    w0: Address,
    w1: Address,
    blocks: int,
    x: Address,
    x_stride: int,
    scale: Address,
    start: Address,
    rows: int,
    scratch: Address,
) -> None:
    """Add up to CHUNK blocks of two tiles times all rows to the totals."""
    totals, panel = scratch + TOTALS, scratch + PANEL
    if tile_bytes == BF16_BYTES:
        for row in range(0, rows, TOKENS):
            bf16_rows(w0, w1, blocks, x + row * x_stride, x_stride, totals + 128 * row)
        return
    if tile_bytes == Q4_BYTES:
        unpack_q4(w0, blocks, panel)
        unpack_q4(w1, blocks, panel + 64)
    else:
        unpack_q8(w0, blocks, panel)
        unpack_q8(w1, blocks, panel + 64)
    if AMX:
        for row in range(0, rows, 16):
            amx.panel_rows(
                panel,
                blocks,
                x + row * x_stride,
                x_stride,
                scale + row * x_stride // 8,
                totals + 128 * row,
                scratch + SUMS,
            )
        return
    for row in range(0, rows, TOKENS):
        offset = row * (x_stride // 8)
        panel_rows(
            panel,
            blocks,
            x + row * x_stride,
            x_stride,
            scale + offset,
            start + offset,
            totals + 128 * row,
        )
