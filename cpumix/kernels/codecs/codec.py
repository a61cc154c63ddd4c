"""What the products know of a weight format: how a block of its tiles is widened in registers.

A codec is written in emitters: functions that take an LLVM builder and write instructions. Loops
over blocks (`matvec`, `gemm_small`, `gemm`) are written once, and made anew for each codec in use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from llvmlite import ir
from numba.core import types

from cpumix.quant.tiles import BLOCK, GROUPS

from ..compile.jit import inlined, specialised
from ..simd import panel
from ..simd.dots import dots_of, header_stride
from ..simd.level import signed_codes
from ..simd.sums import sums_of
from ..simd.vectors import (
    I64,
    VB,
    VF,
    VI,
    VI4,
    Address,
    Builder,
    Lanes,
    Value,
    constant,
    f32x16,
    i32x16,
    instruction,
    load_at,
    pointer,
    store_at,
)


class Codec(ABC):
    """A format of weights, to the kernels.

    A block of 32 columns is added in `steps`: loops of kernels, which LLVM unrolls as far as
    registers allow. Each step emits the instructions for some of the block's columns.
    """

    name: str
    tile_bytes: int
    head_bytes: int = 0
    """Bytes before the tiles of 16 rows: these rows' float32 scales, where rows have scales."""
    x_bytes: int
    """Bytes of a row of activations that a block of 32 columns takes."""
    takes_codes: bool
    """Whether the activations are 8-bit codes with headers, or float32."""
    steps: int
    """How many equal parts, one after the other, a block of 32 columns is added in."""
    encode: Any
    """Kernel (x, out) that encodes a transposed block, (32 columns, 16 rows) f32, as one tile."""
    choose: Any = None
    """Kernel (x, row_scales, out, factors, tables) that chooses the scales of a transposed block,
    (B columns, 16 rows) f32, whose rows' scales are 16 f32: it writes them to out as they are
    stored, and what they mean to factors (16 f32) and tables (16 i32), see `quant.rounder`. None if
    the format has no rounder."""

    def table(self, b: Builder, address: Value) -> Value:
        """Emit the load of the code book at `address`; a format without one needs nothing."""
        return ir.Constant(VI, ir.Undefined)

    @property
    def load_table(self) -> Any:
        """The instruction that loads the code book from an address."""

        @instruction(i32x16, pointer)
        def load_table(b: Builder, address: Value) -> Value:
            """Load the code book."""
            return self.table(b, address)

        return load_table

    @property
    @abstractmethod
    def decode(self) -> Any:
        """The function that widens a tile, as (32 columns, 16 rows) f32.

        It takes the tile's address, the code book, the scales of its rows, and where to store.
        """

    @abstractmethod
    def add_block(self, tokens: int) -> Any:
        """Make the function that adds a block of two tiles times `tokens` rows to their totals.

        It takes the totals, the addresses of the two tiles, the code book, the address of the rows
        of activations, bytes from row to row, and the address of their headers.
        """


class IntegerCodec(Codec):
    """A format whose weights are bytes times a scale, multiplied by 8-bit activations.

    A block of 32 columns is summed exactly in int32, in the same order everywhere, before it is
    scaled: a row alone and in a batch come out the same.
    """

    x_bytes, takes_codes = BLOCK, True

    @abstractmethod
    def load(self, b: Builder, tile: Value, step: Value) -> tuple[Value, ...]:
        """Emit the loads of a step."""

    @abstractmethod
    def group(
        self, b: Builder, loaded: tuple[Value, ...], step: Value, group: int, table: Value
    ) -> Value:
        """Emit four columns' weights as `dot4` takes them, 64 bytes: those of a step's group."""

    @abstractmethod
    def scales(self, b: Builder, tile: Value) -> Value:
        """Emit a tile's 16 scales, as float32."""

    shift_step = 0
    """What weights of a row gain where its shift bit is set; 0 for formats without shifts."""

    def shifts(self, b: Builder, tile: Value) -> Value:
        """Emit a tile's 16 shift bits: all ones in the lanes where they are set."""
        raise NotImplementedError

    @property
    def decode(self) -> Any:  # noqa: D102
        steps, groups = self.steps, GROUPS // self.steps

        @instruction(types.void, pointer, i32x16, f32x16, pointer, types.int64)
        def decode_step(
            b: Builder, tile: Value, table: Value, rows: Value, place: Value, step: Value
        ) -> None:
            """Widen a step's columns."""
            loaded = self.load(b, tile, step)
            scales = b.fmul(self.scales(b, tile), rows)
            place = b.add(place, b.mul(step, I64(256 * groups)))
            shift = constant(0)
            if self.shift_step:
                shift = b.and_(self.shifts(b, tile), constant(self.shift_step))
            for g in range(groups):
                codes = signed_codes(b, self.group(b, loaded, step, g, table))
                for column in range(4):
                    code = b.ashr(b.shl(codes, constant(24 - 8 * column)), constant(24))
                    code = b.add(code, shift)
                    values = b.fmul(b.sitofp(code, VF), scales)
                    store_at(b, b.add(place, I64(256 * g + 64 * column)), values)

        @specialised(inlined, self.name)
        def decode(tile: Address, table: Lanes, rows: Lanes, place: Address) -> None:
            for step in range(steps):
                decode_step(tile, table, rows, place, step)

        return decode

    def add_block(self, tokens: int) -> Any:  # noqa: D102
        dots, sums = dots_of(tokens), sums_of(tokens).stack
        steps, groups = self.steps, GROUPS // self.steps

        @instruction(dots.stack, pointer, pointer, pointer, types.int64)
        def start(b: Builder, w0: Value, w1: Value, header: Value, x_stride: Value) -> Value:
            """Begin a block's sums."""
            stride = header_stride(b, x_stride)
            acc = dots.start(b, header, stride)
            if self.shift_step:
                masks = self.shifts(b, w0), self.shifts(b, w1)
                acc = dots.add_shifts(b, acc, masks, self.shift_step, header, stride)
            return acc

        @instruction(
            dots.stack, dots.stack, pointer, pointer, i32x16, pointer, types.int64, types.int64
        )
        def add_step(
            b: Builder, acc: Value, w0: Value, w1: Value, table: Value, x: Value, *rest: Value
        ) -> Value:
            """Add the products of a step's columns."""
            x_stride, step = rest
            loaded = self.load(b, w0, step), self.load(b, w1, step)
            x = b.add(x, b.mul(step, I64(4 * groups)))
            for g in range(groups):

                def weights(side: int, g: int = g) -> Value:
                    return self.group(b, loaded[side], step, g, table)

                acc = dots.dot4(b, acc, weights, b.add(x, I64(4 * g)), x_stride)
            return acc

        @instruction(sums, sums, dots.stack, pointer, pointer, pointer, types.int64)
        def scale(
            b: Builder, total: Value, acc: Value, w0: Value, w1: Value, header: Value, *rest: Value
        ) -> Value:
            """Add a block's sums, scaled, to the totals."""
            stride = header_stride(b, *rest)
            return dots.scale(b, total, acc, self.scales(b, w0), self.scales(b, w1), header, stride)

        @specialised(inlined, f"{self.name}_{tokens}")
        def add_block(
            total: Lanes, w0: Address, w1: Address, table: Lanes, x: Address, x_stride: int,
            header: Address,
        ) -> Lanes:  # fmt: skip
            acc = start(w0, w1, header, x_stride)
            for step in range(steps):
                acc = add_step(acc, w0, w1, table, x, x_stride, step)
            return scale(total, acc, w0, w1, header, x_stride)

        return add_block

    @property
    def unpack(self) -> Any:
        """The function that widens a block of two tiles to a panel; see `simd.panel`."""
        steps, groups = self.steps, GROUPS // self.steps

        @instruction(types.void, pointer, i32x16, pointer, types.int64)
        def unpack_step(b: Builder, w: Value, table: Value, place: Value, step: Value) -> None:
            """Widen a step's columns of one tile to its half of a panel."""
            loaded = self.load(b, w, step)
            place = b.add(place, b.mul(step, I64(panel.GROUP_BYTES * groups)))
            shift = None
            if self.shift_step:
                shift = b.and_(self.shifts(b, w), constant(0x01010101 * self.shift_step))
            for g in range(groups):
                codes = self.group(b, loaded, step, g, table)
                if shift is not None:
                    codes = b.bitcast(b.add(b.bitcast(codes, VB), b.bitcast(shift, VB)), VI)
                panel.store_group(b, b.add(place, I64(panel.GROUP_BYTES * g)), codes)

        @instruction(types.void, pointer, pointer)
        def unpack_scales(b: Builder, w: Value, place: Value) -> None:
            """Widen one tile's scales."""
            panel.store_scales(b, place, self.scales(b, w))

        @specialised(inlined, self.name)
        def unpack(w0: Address, w1: Address, table: Lanes, place: Address) -> None:
            for step in range(steps):
                unpack_step(w0, table, place, step)
            unpack_scales(w0, place)
            for step in range(steps):
                unpack_step(w1, table, place + 64, step)
            unpack_scales(w1, place + 64)

        return unpack


def load_line(b: Builder, tile: Value, line: Value) -> Value:
    """Emit the load of line `line` of a tile, 64 bytes."""
    return load_at(b, b.add(tile, b.mul(line, I64(64))), VI)


def load_book(b: Builder, address: Value) -> Value:
    """Emit the load of 16 bytes, copied to all quarters: the table of a look-up."""
    quarter = load_at(b, address, VI4)
    return b.shuffle_vector(quarter, quarter, ir.Constant(VI, list(range(4)) * 4))
