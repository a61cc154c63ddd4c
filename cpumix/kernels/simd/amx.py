"""AMX: matrix units that multiply 16 rows of activations by 16 rows of weights in one instruction.

A panel's block is already the shape that `tdpbssd` wants for its second operand: 8 rows of 16 x 4
bytes. The sums of one block go through memory to be scaled, since every block has scales of its
own. Registers tmm0-1 hold sums, 2 the activations, 3-4 the weights.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np
from llvmlite import ir
from numba.core import types

from cpumix.quant.tiles import BLOCK

from ..blocks import InputRows
from ..compile.jit import kernel
from ..rows import INPUT_HEADER, SCALE_AT
from .panel import PANEL_BLOCK, PANEL_CODES
from .sums import read_row
from .vectors import (
    I8,
    I64,
    VF,
    VI,
    Address,
    Builder,
    Stack,
    Value,
    at,
    external,
    f32x16,
    instruction,
    load_f32,
    multiply_add,
    pointer,
)

# Blocks whose products are under way while an earlier one is scaled: sums go from matrix to vector
# registers through memory, and must not be waited for.
AHEAD = 3
SUMS_BYTES = AHEAD * 16 * 64
INPUT_ROWS = 16  # that a matrix register holds

sums16 = Stack(f32x16, INPUT_ROWS)
VOID, POINTER = ir.VoidType(), I8.as_pointer()


def _shapes() -> bytes:
    """Return the 64-byte tile configuration: palette 1; bytes per row at 16, rows at 48."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    columns, rows = config[16:48].view(np.uint16), config[48:64]
    columns[0:3], rows[0:3] = (64, 32, 64), (16, 16, 8)
    return config.tobytes()


def request_permission() -> bool:
    """Ask Linux for the tile registers: arch_prctl ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA.

    Returns whether they may be used. Source: https://docs.kernel.org/arch/x86/xstate.html.
    """
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None, use_errno=True).syscall(158, 0x1023, 18) == 0)


@instruction(types.void)
def configure(b: Builder) -> None:
    """ldtilecfg: give the tile registers their shapes."""
    data = ir.Constant(ir.ArrayType(I8, 64), bytearray(_shapes()))
    name = "cpumix.amx.shapes"
    shapes = b.module.globals.get(name)
    if shapes is None:
        shapes = ir.GlobalVariable(b.module, data.type, name)
        shapes.initializer, shapes.global_constant, shapes.linkage, shapes.align = (
            data,
            True,
            "internal",
            64,
        )
    b.call(external(b, "llvm.x86.ldtilecfg", VOID, [POINTER]), [b.bitcast(shapes, POINTER)])


@instruction(types.void)
def release(b: Builder) -> None:
    """tilerelease: forget the tile registers, so that a task switch need not save them."""
    b.call(external(b, "llvm.x86.tilerelease", VOID, []), [])


def _load(b: Builder, tile: int, p: Value, stride: Value) -> None:
    b.call(
        external(b, "llvm.x86.tileloadd64", VOID, [I8, POINTER, I64]),
        [I8(tile), at(b, p, I8), stride],
    )


@instruction(types.void, pointer, types.int64, pointer, pointer)
def block_products(b: Builder, x: Value, stride: Value, tile: Value, sums: Value) -> None:
    """Multiply 16 rows x 32 columns by a tile's block; store the int32 sums, 16 x 64 bytes."""
    _load(b, 1, x, stride)
    _load(b, 2, tile, I64(128))
    b.call(external(b, "llvm.x86.tilezero", VOID, [I8]), [I8(0)])
    b.call(external(b, "llvm.x86.tdpbssd", VOID, [I8] * 3), [I8(0), I8(1), I8(2)])
    store = external(b, "llvm.x86.tilestored64", VOID, [I8, POINTER, I64])
    b.call(store, [I8(0), at(b, sums, I8), I64(64)])


@instruction(sums16, pointer)
def load_totals(b: Builder, p: Value) -> Value:
    """Load one tile's totals of 16 rows, 128 bytes apart."""
    out = ir.Constant(sums16.llvm, ir.Undefined)
    for i in range(INPUT_ROWS):
        out = b.insert_value(out, b.load(at(b, b.add(p, I64(128 * i)), VF), align=4), i)
    return out


@instruction(types.void, pointer, sums16)
def store_totals(b: Builder, p: Value, totals: Value) -> None:
    """Store what `load_totals` loads."""
    for i in range(INPUT_ROWS):
        b.store(b.extract_value(totals, i), at(b, b.add(p, I64(128 * i)), VF), align=4)


@instruction(sums16, sums16, pointer, f32x16, pointer, types.int64)
def scale_rows(
    b: Builder, totals: Value, sums: Value, w: Value, header: Value, stride: Value
) -> Value:
    """Add each row's integer sums x its activation scale x the weights' scales to its totals."""
    for i in range(INPUT_ROWS):
        value = read_row(b, b.add(header, I64(SCALE_AT)), stride, i)
        acc = b.load(at(b, b.add(sums, I64(64 * i)), VI), align=64)
        scaled = b.fmul(b.sitofp(acc, VF), value)
        totals = b.insert_value(totals, multiply_add(b, scaled, w, b.extract_value(totals, i)), i)
    return totals


@kernel
def panel_rows(
    panel: Address, blocks: int, inputs: InputRows, totals: Address, sums: Address
) -> None:
    """Add a panel times 16 rows to their totals."""
    x, x_stride, header = inputs
    configure()
    for side in range(2):
        tile, total = panel + 64 * side, load_totals(totals + 64 * side)
        for b in range(min(AHEAD, blocks)):
            block_products(x + BLOCK * b, x_stride, tile + b * PANEL_BLOCK, sums + 1024 * b)
        for b in range(blocks):
            w = load_f32(panel + b * PANEL_BLOCK + PANEL_CODES + 64 * side)
            place = sums + 1024 * (b % AHEAD)
            total = scale_rows(total, place, w, header + INPUT_HEADER * b, x_stride // 2)
            c = b + AHEAD
            if c < blocks:
                block_products(x + BLOCK * c, x_stride, tile + c * PANEL_BLOCK, place)
        store_totals(totals + 64 * side, total)
    release()
