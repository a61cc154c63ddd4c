"""Integer sums of a few rows of 8-bit activations times two tiles, kept in registers.

Sums are int32, one lane for each output row of a tile, exact for a block of 32 columns; then they
are scaled into float32 totals (see `sums`). How many rows of activations there are is fixed when
the instructions are made.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from llvmlite import ir

from ..rows import SCALE_AT, START_AT
from .level import LEVEL
from .sums import read_row, row
from .vectors import I32, I64, VF, Builder, Stack, Value, at, i32x16, multiply_add, spread

START_FACTOR = 128  # the header's start is minus this times the sum of a block's activations


class Dots:
    """Emitters for `tokens` rows of activations and two tiles of weights: 2 x tokens sums.

    Slot t of the stack is row t times the first tile, slot tokens + t times the second. Rows of
    activations are `x_stride` bytes apart, their headers half as far: `header_stride`.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.stack = Stack(i32x16, 2 * tokens)

    def start_at(self, b: Builder, place: int, header: Value, stride: Value) -> Value:
        """Begin each row's sums at the int32 at `place` in its header."""
        out = ir.Constant(self.stack.llvm, ir.Undefined)
        for t in range(self.tokens):
            number = at(b, b.add(row(b, header, stride, t), I64(place)), I32)
            value = spread(b, b.load(number, align=4))
            out = b.insert_value(b.insert_value(out, value, t), value, self.tokens + t)
        return out

    def start(self, b: Builder, header: Value, stride: Value) -> Value:
        """Begin the sums at 0, or at `START_AT` where weights are unsigned (code + 128)."""
        if LEVEL.unsigned:
            return self.start_at(b, START_AT, header, stride)
        return ir.Constant(self.stack.llvm, None)

    def add_shifts(
        self,
        b: Builder,
        acc: Value,
        masks: tuple[Value, Value],
        step: int,
        header: Value,
        stride: Value,
    ) -> Value:
        """Add `step` x the sum of a row's activations in the lanes that each tile's mask selects.

        So weights that are all greater by the step need not be made so.
        """
        bits = START_FACTOR.bit_length() - step.bit_length()  # -128 x the sum, to -step x the sum
        for t in range(self.tokens):
            number = at(b, b.add(row(b, header, stride, t), I64(START_AT)), I32)
            sums = b.ashr(b.load(number, align=4), I32(bits))
            value = spread(b, b.sub(I32(0), sums))
            for side, mask in enumerate(masks):
                slot = side * self.tokens + t
                added = b.add(b.extract_value(acc, slot), b.and_(value, mask))
                acc = b.insert_value(acc, added, slot)
        return acc

    def dot4(
        self, b: Builder, acc: Value, weights: Callable[[int], Value], x: Value, x_stride: Value
    ) -> Value:
        """Add the products of 4 columns; each activation is loaded once and used twice.

        `weights(side)` emits those of a tile, where they are first needed: registers are few.
        """
        pairs = [(t, side) for t in range(self.tokens) for side in (0, 1)]
        if self.tokens == 2:  # few registers: all activations, and one tile after the other
            pairs.sort(key=lambda pair: pair[1])
        values: dict[int, Value] = {}
        tiles = {side: weights(side) for side in (0, 1)} if self.tokens > 1 else {}
        for t, side in pairs:
            if t not in values:
                values[t] = spread(b, b.load(at(b, row(b, x, x_stride, t), I32), align=4))
            if side not in tiles:
                tiles[side] = weights(side)
            slot = side * self.tokens + t
            total = LEVEL.dot4(b, b.extract_value(acc, slot), tiles[side], values[t])
            acc = b.insert_value(acc, total, slot)
        return acc

    def scale(
        self,
        b: Builder,
        total: Value,
        acc: Value,
        w0: Value,
        w1: Value,
        header: Value,
        stride: Value,
    ) -> Value:
        """Add each row's sums x its activation scale x the tiles' scales to its totals."""
        for t in range(self.tokens):
            value = read_row(b, b.add(header, I64(SCALE_AT)), stride, t)
            for slot, w in ((t, w0), (self.tokens + t, w1)):
                scaled = b.fmul(b.sitofp(b.extract_value(acc, slot), VF), value)
                added = multiply_add(b, scaled, w, b.extract_value(total, slot))
                total = b.insert_value(total, added, slot)
        return total


def header_stride(b: Builder, x_stride: Value) -> Value:
    """Return how far apart headers lie, where rows of codes lie `x_stride` bytes apart."""
    return b.lshr(x_stride, I64(1))  # INPUT_HEADER to BLOCK


@lru_cache
def dots_of(tokens: int) -> Dots:
    """Return the emitters for so many rows."""
    return Dots(tokens)
