"""The instructions of the level that this process runs at, under names that do not tell the level.

A new instruction set is a file of emitters beside `simd_x86` and `simd_arm`, and rows in `TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llvmlite import ir
from numba.core import types

from cpumix.quant.q4 import CODE_BOOK

from ..compile.isa import active
from ..rows import SCALE, START
from .sums import read_row, row, sums_of
from .vectors import (
    I32,
    I64,
    VF,
    VI,
    Builder,
    Stack,
    Value,
    at,
    constant,
    f32x16,
    i32x16,
    instruction,
    multiply_add,
    pointer,
    spread,
)


class Instructions(NamedTuple):
    """What a level offers to the integer kernels."""

    dot4: Callable[..., Value]
    lookup: Callable[..., Value]
    weights: Callable[..., Value]
    """Turns stored bytes (code + 128) into what dot4 multiplies."""
    unsigned: bool
    """Whether dot4 takes code + 128, so that accumulators begin at -128 x the activations' sum."""
    tokens: int
    """Rows in one pass of prefill: the sums of two tiles must stay in registers."""
    registers: int
    """That a vector instruction can name."""
    multiples: bool = False
    """Whether prefill scales by `simd_multiples`."""


def keep_unsigned(b: Builder, stored: Value) -> Value:
    """Weights as stored, code + 128."""
    return stored


def make_signed(b: Builder, stored: Value) -> Value:
    """Turn stored code + 128 into the signed code, by flipping the top bit of every byte."""
    return b.xor(stored, constant(-0x7F7F7F80))


TABLE: dict[str, Instructions]
if active().name == "neon":
    from . import arm as arm

    # 2: a block's integer sums take 16 of 32 registers, and half of the totals give way to them.
    # 1 would wait for loads: llvm-mca has 2 ahead by 3 % (Neoverse N1) to 18 % (Cortex-A76).
    TABLE = {"neon": Instructions(arm.dot4_neon, arm.lookup_128, make_signed, False, 2, 32)}
else:
    from . import x86 as x86

    TABLE = {
        "avx2": Instructions(x86.dot4_avx2, x86.lookup_256, make_signed, False, 2, 16),
        "avxvnni": Instructions(x86.dot4_avxvnni, x86.lookup_256, keep_unsigned, True, 2, 16),
        "avx512": Instructions(x86.dot4_avx512, x86.lookup_512, make_signed, False, 4, 32),
        "avx512vnni": Instructions(
            x86.dot4_avx512vnni, x86.lookup_512, keep_unsigned, True, 4, 32, multiples=True
        ),
        "amx": Instructions(x86.dot4_avx512vnni, x86.lookup_512, keep_unsigned, True, 4, 32),
    }
LEVEL = TABLE[active().name]
UNSIGNED, TOKENS = LEVEL.unsigned, LEVEL.tokens

SUMS = sums_of(TOKENS)
dots, sums = Stack(i32x16, 2 * TOKENS), SUMS.stack
load_sums, store_sums, fma_tokens = SUMS.load, SUMS.store, SUMS.fma


@instruction(i32x16, i32x16, i32x16, i32x16)
def dot4(b: Builder, acc: Value, w: Value, x: Value) -> Value:
    """Add to each lane of acc the products of its four weight and four activation bytes."""
    return LEVEL.dot4(b, acc, w, x)


@instruction(i32x16, i32x16, i32x16)
def lookup(b: Builder, table: Value, index: Value) -> Value:
    """Look every byte of index (0..15) up in the 16-byte table that each quarter of table holds."""
    return LEVEL.lookup(b, table, index)


@instruction(i32x16, i32x16)
def weights(b: Builder, stored: Value) -> Value:
    """Turn stored weight bytes, code + 128, into what `dot4` multiplies."""
    return LEVEL.weights(b, stored)


@instruction(i32x16, i32x16)
def panel_codes(b: Builder, codes: Value) -> Value:
    """Turn what `dot4` multiplies into what a panel holds: the same, but signed for AMX."""
    return make_signed(b, codes) if active().name == "amx" else codes


@instruction(i32x16)
def code_book(b: Builder) -> Value:
    """Return the 16 values of 4-bit weights as `dot4` wants them, once in every quarter."""
    values = [(int(v) + (128 if UNSIGNED else 0)) & 255 for v in CODE_BOOK]
    words = [sum(values[4 * i + j] << (8 * j) for j in range(4)) for i in range(4)]
    return ir.Constant(VI, words * 4)


def start_at(b: Builder, place: int, header: Value, stride: Value) -> Value:
    """Emit the sums of two tiles x TOKENS rows, begun at the number at `place` in each header."""
    out = ir.Constant(dots.llvm, ir.Undefined)
    for t in range(TOKENS):
        number = at(b, b.add(row(b, header, stride, t), I64(place)), I32)
        value = spread(b, b.load(number, align=4))
        out = b.insert_value(b.insert_value(out, value, t), value, TOKENS + t)
    return out


@instruction(dots, pointer, types.int64)
def start_dots(b: Builder, header: Value, stride: Value) -> Value:
    """Begin the sums of two tiles x TOKENS rows: 0, or `start` where weights are unsigned.

    The rows' headers lie `stride` apart.
    """
    return start_at(b, START, header, stride) if UNSIGNED else ir.Constant(dots.llvm, None)


@instruction(dots, dots, i32x16, i32x16, pointer, types.int64)
def dot4_tokens(b: Builder, acc: Value, w0: Value, w1: Value, x: Value, stride: Value) -> Value:
    """`dot4` of two tiles with TOKENS tokens: each activation is loaded once and used twice."""
    pairs = [(t, side) for t in range(TOKENS) for side in (0, 1)]
    if TOKENS == 2:  # few registers: all activations, and one tile after the other, leave more free
        pairs.sort(key=lambda pair: pair[1])
    values: dict[int, Value] = {}
    for t, side in pairs:
        if t not in values:
            values[t] = spread(b, b.load(at(b, row(b, x, stride, t), I32), align=4))
        slot, w = side * TOKENS + t, (w0, w1)[side]
        acc = b.insert_value(acc, LEVEL.dot4(b, b.extract_value(acc, slot), w, values[t]), slot)
    return acc


@instruction(sums, sums, dots, f32x16, f32x16, pointer, types.int64)
def scale_tokens(
    b: Builder, total: Value, acc: Value, w0: Value, w1: Value, header: Value, stride: Value
) -> Value:
    """Add each token's integer sums x its activation scale x the weights' scales to the totals."""
    for t in range(TOKENS):
        value = read_row(b, b.add(header, I64(SCALE)), stride, t)
        for slot, w in ((t, w0), (TOKENS + t, w1)):
            scaled = b.fmul(b.sitofp(b.extract_value(acc, slot), VF), value)
            total = b.insert_value(
                total, multiply_add(b, scaled, w, b.extract_value(total, slot)), slot
            )
    return total
