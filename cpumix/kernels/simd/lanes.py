"""Arithmetic on the 16 lanes of a vector, and reductions over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import types

from .vectors import (
    F32,
    I32,
    LANES,
    VF,
    VI,
    Builder,
    Value,
    constant,
    external,
    f32x16,
    i32x16,
    instruction,
    multiply_add,
)


@instruction(f32x16, f32x16, f32x16)
def add(b: Builder, x: Value, y: Value) -> Value:
    """Return x + y."""
    return b.fadd(x, y)


@instruction(f32x16, f32x16, f32x16)
def sub(b: Builder, x: Value, y: Value) -> Value:
    """Return x - y."""
    return b.fsub(x, y)


@instruction(f32x16, f32x16, f32x16)
def mul(b: Builder, x: Value, y: Value) -> Value:
    """Return x * y."""
    return b.fmul(x, y)


@instruction(f32x16, f32x16, f32x16)
def div(b: Builder, x: Value, y: Value) -> Value:
    """Return x / y."""
    return b.fdiv(x, y)


@instruction(f32x16, f32x16, f32x16, f32x16)
def fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """Return x * y + z, rounded once."""
    return multiply_add(b, x, y, z)


@instruction(f32x16, f32x16)
def absolute(b: Builder, x: Value) -> Value:
    """Return |x|."""
    return b.bitcast(b.and_(b.bitcast(x, VI), constant(0x7FFFFFFF)), VF)


@instruction(f32x16, f32x16)
def rint(b: Builder, x: Value) -> Value:
    """Round to the nearest integer, ties to even."""
    return b.call(external(b, "llvm.rint.v16f32", VF, [VF]), [x])


@instruction(f32x16, f32x16, f32x16, f32x16, f32x16)
def where_greater(b: Builder, x: Value, y: Value, yes: Value, no: Value) -> Value:
    """Return `yes` in the lanes where x > y, else `no`; a NaN is never greater."""
    return b.select(b.fcmp_ordered(">", x, y), yes, no)


@instruction(i32x16, f32x16, f32x16, i32x16, i32x16)
def where_greater_i32(b: Builder, x: Value, y: Value, yes: Value, no: Value) -> Value:
    """Return `yes` in the lanes where x > y, else `no`, of int32."""
    return b.select(b.fcmp_ordered(">", x, y), yes, no)


@instruction(i32x16, f32x16)
def to_i32(b: Builder, v: Value) -> Value:
    """Convert float32 that are integers to int32."""
    return b.fptosi(v, VI)


@instruction(i32x16, i32x16, i32x16)
def add_i32(b: Builder, x: Value, y: Value) -> Value:
    """Return x + y."""
    return b.add(x, y)


@instruction(i32x16, i32x16, i32x16)
def either(b: Builder, x: Value, y: Value) -> Value:
    """Return x | y, bit by bit."""
    return b.or_(x, y)


@instruction(i32x16, i32x16, i32x16)
def max_i32(b: Builder, x: Value, y: Value) -> Value:
    """Return the greater of x and y, signed."""
    return b.select(b.icmp_signed(">", x, y), x, y)


@instruction(types.int32, i32x16)
def reduce_max_i32(b: Builder, v: Value) -> Value:
    """Return the greatest lane, signed."""
    return b.call(external(b, "llvm.vector.reduce.smax.v16i32", I32, [VI]), [v])


@instruction(i32x16, i32x16, i32x16)
def shift_left(b: Builder, x: Value, bits: Value) -> Value:
    """Return x << bits, lane by lane."""
    return b.shl(x, bits)


@instruction(i32x16, i32x16, i32x16)
def shift_right(b: Builder, x: Value, bits: Value) -> Value:
    """Return x >> bits, lane by lane; zeros come in from above."""
    return b.lshr(x, bits)


def staircase(result: Any, thresholds: Sequence[float], steps: Sequence[float]) -> Any:
    """Make the function that returns steps[i], i being how many thresholds lie below x."""
    llvm = result.llvm

    @instruction(result, f32x16)
    def climb(b: Builder, x: Value) -> Value:
        """Return the step that x has reached."""
        at_step = ir.Constant(llvm, [steps[0]] * LANES)
        for threshold, step in zip(thresholds, steps[1:], strict=True):
            above = b.fcmp_ordered(">", x, ir.Constant(VF, [threshold] * LANES))
            at_step = b.select(above, ir.Constant(llvm, [step] * LANES), at_step)
        return at_step

    return climb


@instruction(f32x16, i32x16)
def as_f32(b: Builder, v: Value) -> Value:
    """Read the bits of int32 lanes as float32."""
    return b.bitcast(v, VF)


@instruction(i32x16, f32x16)
def as_i32(b: Builder, v: Value) -> Value:
    """Read the bits of float32 lanes as int32."""
    return b.bitcast(v, VI)


# --- Reductions, lane 0 first, so that the result is the same on every machine ---


@instruction(types.float32, f32x16)
def reduce_add(b: Builder, v: Value) -> Value:
    """Sum the lanes, lane 0 first."""
    return b.call(external(b, "llvm.vector.reduce.fadd.v16f32", F32, [F32, VF]), [F32(-0.0), v])


@instruction(types.int32, i32x16)
def reduce_add_i32(b: Builder, v: Value) -> Value:
    """Sum the lanes."""
    return b.call(external(b, "llvm.vector.reduce.add.v16i32", I32, [VI]), [v])


@instruction(types.float32, f32x16)
def reduce_max(b: Builder, v: Value) -> Value:
    """Return the greatest lane; no lane may be NaN."""
    return b.call(external(b, "llvm.vector.reduce.fmax.v16f32", F32, [VF]), [v])
