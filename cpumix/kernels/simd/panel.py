"""A panel: some blocks of two tiles, widened to bytes once for many rows of activations.

A block of it is 8 groups of 4 columns, 2 x 64 bytes each, the two tiles side by side; then the
tiles' 2 x 16 float32 scales, or eight multiples of these where the level scales by `multiples`.
"""

from __future__ import annotations

from typing import Any

from numba.core import types

from cpumix.quant.tiles import GROUPS

from ..compile.jit import inlined
from . import multiples
from .dots import dots_of, header_stride
from .level import LEVEL, TOKENS, panel_codes
from .sums import sums_of
from .vectors import (
    I64,
    VF,
    VI,
    Address,
    Builder,
    Lanes,
    Value,
    instruction,
    load_at,
    pointer,
    store_at,
)

GROUP_BYTES = 128
PANEL_CODES = GROUPS * GROUP_BYTES  # of a block; scales follow
PANEL_BLOCK = PANEL_CODES + (multiples.COUNT * multiples.MULTIPLE_BYTES if LEVEL.multiples else 128)

DOTS, SUMS = dots_of(TOKENS), sums_of(TOKENS)


def store_group(b: Builder, place: Value, codes: Value) -> None:
    """Store 64 bytes of one tile, as `dot4` takes them, to its half of a panel's group."""
    store_at(b, place, panel_codes(b, codes))


def store_scales(b: Builder, panel: Value, scales: Value) -> None:
    """Store one tile's 16 scales, or all multiples of them."""
    place = b.add(panel, I64(PANEL_CODES))
    if LEVEL.multiples:
        multiples.store_multiples(b, place, scales)
    else:
        store_at(b, place, scales)


@instruction(DOTS.stack, pointer, types.int64)
def start(b: Builder, header: Value, x_stride: Value) -> Value:
    """Begin a block's sums."""
    stride = header_stride(b, x_stride)
    return multiples.start(b, header, stride) if LEVEL.multiples else DOTS.start(b, header, stride)


@instruction(DOTS.stack, DOTS.stack, pointer, pointer, types.int64)
def add_group(b: Builder, acc: Value, place: Value, x: Value, x_stride: Value) -> Value:
    """Add the products of four columns."""
    return DOTS.dot4(b, acc, lambda side: load_side(b, place, side, VI), x, x_stride)


@instruction(SUMS.stack, SUMS.stack, DOTS.stack, pointer, pointer, types.int64)
def scale(
    b: Builder, total: Value, acc: Value, panel: Value, header: Value, x_stride: Value
) -> Value:
    """Add a block's sums, scaled, to the totals."""
    stride, place = header_stride(b, x_stride), b.add(panel, I64(PANEL_CODES))
    if LEVEL.multiples:
        return multiples.add(b, total, acc, place, header, stride)
    w0, w1 = (load_side(b, place, side, VF) for side in (0, 1))
    return DOTS.scale(b, total, acc, w0, w1, header, stride)


def load_side(b: Builder, place: Value, side: int, kind: Any) -> Value:
    """Load one tile's 64 bytes of a pair."""
    return load_at(b, b.add(place, I64(64 * side)), kind)


@inlined
def add_panel_block(
    total: Lanes, panel: Address, x: Address, x_stride: int, header: Address
) -> Lanes:
    """Add a panel's block times TOKENS rows of codes, `x_stride` bytes apart, to their totals."""
    acc = start(header, x_stride)
    for g in range(GROUPS):
        acc = add_group(acc, panel + GROUP_BYTES * g, x + 4 * g, x_stride)
    return scale(total, acc, panel, header, x_stride)
