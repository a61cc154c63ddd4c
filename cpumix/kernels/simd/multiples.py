"""Scaling a block's sums without multiplying them: for processors whose multipliers are the limit.

`vpdpbusd` and float multiplication share their execution units: each multiplication that is saved
makes room for one more `vpdpbusd`. A block's integer sum n is to be multiplied by its weights'
scale, one for each lane, and by its activations' scale, (1 + i / 8) x 2^k with i = 0..7 (see
`quant.activations`). The second costs no multiplication:

- 2^k: the int32 sum starts at the bits of the float32 1.5 x 2^(23 + k), whose last bit is worth
  2^k. In the end its bits, read as a float32, are that number + n x 2^k, exactly, as |n| < 2^22;
  a subtraction, which other units do, leaves n x 2^k.
- 1 + i / 8: a panel holds all eight multiples of the weights' scales, which are exact, too.

Nothing is rounded that the plain way, in `dots`, would not round: results are the same bits.
"""

from __future__ import annotations

from llvmlite import ir

from ..rows import CENTRE_AT, CENTRED_START_AT, SCALE_AT
from .dots import dots_of
from .level import TOKENS
from .sums import read_row, row
from .vectors import I32, I64, VF, Builder, Value, at, multiply_add

COUNT = 8
MULTIPLE_BYTES = 2 * 64  # of one multiple of two tiles' scales
FIRST_BIT = 20  # of the three in a float32 scale that tell the multiple


def store_multiples(b: Builder, p: Value, scales: Value) -> None:
    """Store 1, 1 1/8, ... 1 7/8 times a tile's scales by adding: all are exact."""
    eighth = b.fmul(scales, ir.Constant(VF, [1 / COUNT] * 16))
    for i in range(COUNT):
        b.store(scales, at(b, b.add(p, I64(MULTIPLE_BYTES * i)), VF), align=4)
        scales = b.fadd(scales, eighth)


def start(b: Builder, header: Value, stride: Value) -> Value:
    """Begin the sums of two tiles x TOKENS rows at their centres; rows' headers `stride` apart."""
    return dots_of(TOKENS).start_at(b, CENTRED_START_AT, header, stride)


def add(
    b: Builder, total: Value, acc: Value, multiples: Value, header: Value, stride: Value
) -> Value:
    """Add sums that began at their centres, scaled, to the totals."""
    for t in range(TOKENS):
        centre = read_row(b, b.add(header, I64(CENTRE_AT)), stride, t)
        place = b.add(row(b, header, stride, t), I64(SCALE_AT))
        bits = b.zext(b.load(at(b, place, I32), align=4), I64)
        # i x MULTIPLE_BYTES: the three bits, moved to where they count multiples
        offset = b.and_(b.lshr(bits, I64(FIRST_BIT - 7)), I64((COUNT - 1) * MULTIPLE_BYTES))
        for side, slot in enumerate((t, TOKENS + t)):
            n = b.fsub(b.bitcast(b.extract_value(acc, slot), VF), centre)
            w = b.load(at(b, b.add(b.add(multiples, offset), I64(64 * side)), VF), align=64)
            total = b.insert_value(total, multiply_add(b, n, w, b.extract_value(total, slot)), slot)
    return total
