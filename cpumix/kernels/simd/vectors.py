"""SIMD vectors as Numba types, and one function per instruction: kernels read like Python.

A vector has 16 lanes whatever the machine: LLVM splits it into two or four registers where
registers are narrower. A `Stack` is a fixed number of vectors that the compiler keeps in registers,
such as one accumulator per token. Here is what every instruction set offers; the few instructions
that differ by level are in `x86` and `arm` and are picked in `level`.

Memory is named by its address, a plain int; nothing is checked. Kernels are called by wrappers that
have checked. Needs the JIT: nothing here runs under NUMBA_DISABLE_JIT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic

LANES = 16
I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
VI, VF, VH = (ir.VectorType(t, LANES) for t in (I32, F32, F16))
VB, VC = ir.VectorType(I8, 4 * LANES), ir.VectorType(I8, LANES)
VI4 = ir.VectorType(I32, 4)

Address = int  # of memory, in a kernel
Lanes = Any  # a Vector or Stack, in a kernel
Builder = Any  # llvmlite.ir.IRBuilder and ir.Value come without type hints
Value = Any


class Vector(types.Type):
    """A register of 16 lanes."""

    def __init__(self, name: str, llvm: Any) -> None:
        super().__init__(name=name)
        self.llvm = llvm


class Stack(types.Type):
    """`count` vectors, kept in registers."""

    def __init__(self, vector: Vector, count: int) -> None:
        super().__init__(name=f"{vector.name}[{count}]")
        self.vector, self.count = vector, count
        self.llvm = ir.ArrayType(vector.llvm, count)


@register_default(Vector)
@register_default(Stack)
class _RegisterModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, numba_type.llvm)


i32x16, f32x16 = Vector("i32x16", VI), Vector("f32x16", VF)
pointer = types.intp

# `intrinsic` wants functions with named arguments, one shape per number of operands.
_SHAPES: dict[int, Callable[[Any], Any]] = {
    0: lambda made: lambda ctx: made,
    1: lambda made: lambda ctx, a: made,
    2: lambda made: lambda ctx, a, b: made,
    3: lambda made: lambda ctx, a, b, c: made,
    4: lambda made: lambda ctx, a, b, c, d: made,
    5: lambda made: lambda ctx, a, b, c, d, e: made,
    6: lambda made: lambda ctx, a, b, c, d, e, f: made,
    7: lambda made: lambda ctx, a, b, c, d, e, f, g: made,
}


def instruction(result: Any, *operands: Any) -> Callable[[Callable[..., Value]], Any]:
    """Turn `emit(builder, *values)` into a function of these Numba types that kernels call."""

    def wrap(emit: Callable[..., Value]) -> Any:
        def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
            value = emit(builder, *values)
            return context.get_dummy_value() if result is types.void else value

        typer = _SHAPES[len(operands)]((result(*operands), generate))
        typer.__name__, typer.__doc__ = emit.__name__, emit.__doc__
        return intrinsic(typer)

    return wrap


def external(builder: Builder, name: str, result: Any, operands: list[Any]) -> Any:
    """Declare an LLVM intrinsic in the module being built, once."""
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, operands), name)


def at(builder: Builder, address: Value, llvm_type: Any) -> Value:
    """Read an int as the address of a value of `llvm_type`."""
    return builder.inttoptr(address, llvm_type.as_pointer())


def load_at(builder: Builder, address: Value, llvm_type: Any) -> Value:
    """Load a value of `llvm_type` from any address."""
    return builder.load(at(builder, address, llvm_type), align=1)


def store_at(builder: Builder, address: Value, value: Value) -> None:
    """Store a value at any address."""
    builder.store(value, at(builder, address, value.type), align=1)


def spread(builder: Builder, value: Value) -> Value:
    """Copy one scalar to all lanes."""
    empty = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(empty, value, I32(0))
    return builder.shuffle_vector(first, empty, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


def constant(value: int) -> Value:
    """Make an i32 vector constant."""
    return ir.Constant(VI, [value] * LANES)


def multiply_add(builder: Builder, x: Value, y: Value, z: Value) -> Value:
    """Emit x * y + z, rounded once."""
    return builder.call(external(builder, "llvm.fma.v16f32", VF, [VF] * 3), [x, y, z])


# --- Addresses ---


@intrinsic  # type: ignore[untyped-decorator]
def address(typing_context: Any, array: Any) -> Any:
    """Return the address of an array's first element."""

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.ptrtoint(data, I64)

    return pointer(array), generate


@instruction(types.int64, pointer, types.int64)
def fetch_add(b: Builder, p: Value, n: Value) -> Value:
    """Add n to the int64 at p, atomically, and return what it was."""
    return b.atomic_rmw("add", at(b, p, I64), n, "monotonic")


# --- Memory to lanes and back ---


@instruction(types.int64, pointer)
def read_i64(b: Builder, p: Value) -> Value:
    """Read one int64."""
    return b.load(at(b, p, I64))


@instruction(i32x16, pointer)
def load_i32(b: Builder, p: Value) -> Value:
    """Load 64 bytes."""
    return b.load(at(b, p, VI), align=1)


@instruction(f32x16, pointer)
def load_f32(b: Builder, p: Value) -> Value:
    """Load 16 float32."""
    return b.load(at(b, p, VF), align=1)


@instruction(f32x16, pointer)
def load_f16(b: Builder, p: Value) -> Value:
    """Load 16 float16, widened."""
    return b.fpext(b.load(at(b, p, VH), align=1), VF)


@instruction(types.void, pointer)
def prefetch_l2(b: Builder, p: Value) -> None:
    """Ask for a cache line that will be read soon, in the second-level cache.

    An address that is not mapped does no harm.
    """
    declared = external(b, "llvm.prefetch.p0", ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    b.call(declared, [at(b, p, I8), I32(0), I32(2), I32(1)])


@instruction(i32x16, pointer)
def broadcast_i32(b: Builder, p: Value) -> Value:
    """Load 4 bytes into every lane."""
    return spread(b, b.load(at(b, p, I32), align=1))


@instruction(f32x16, pointer)
def broadcast_f32(b: Builder, p: Value) -> Value:
    """Load one float32 into every lane."""
    return spread(b, b.load(at(b, p, F32), align=1))


@instruction(types.void, pointer, i32x16)
def store_i32(b: Builder, p: Value, v: Value) -> None:
    """Store 64 bytes."""
    b.store(v, at(b, p, VI), align=1)


@instruction(types.void, pointer, f32x16)
def store_f32(b: Builder, p: Value, v: Value) -> None:
    """Store 16 float32."""
    b.store(v, at(b, p, VF), align=1)


@instruction(types.void, pointer, f32x16)
def store_f16(b: Builder, p: Value, v: Value) -> None:
    """Round to nearest even and store 16 float16."""
    b.store(b.fptrunc(v, VH), at(b, p, VH), align=1)


@instruction(types.void, pointer, i32x16)
def store_i8(b: Builder, p: Value, v: Value) -> None:
    """Store the low byte of every lane: 16 bytes."""
    b.store(b.trunc(v, VC), at(b, p, VC), align=1)


@intrinsic  # type: ignore[untyped-decorator]
def load_as_f32(typing_context: Any, array: Any, p: Any) -> Any:
    """Load 16 elements of `array`'s type at p, widened: float32, float16 seen as uint16, int8."""
    kind = {types.float32: VF, types.uint16: VH, types.int8: VC}[array.dtype]

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        loaded = builder.load(at(builder, values[1], kind), align=1)
        if kind is VF:
            return loaded
        if kind is VH:
            return builder.fpext(loaded, VF)
        return builder.sitofp(builder.sext(loaded, VI), VF)

    return f32x16(array, pointer), generate


@intrinsic  # type: ignore[untyped-decorator]
def load_scale(typing_context: Any, array: Any, p: Any) -> Any:
    """Load the float16 scales at p of 16 int8; 1 where `array`'s type is another, and has none."""

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        if array.dtype != types.int8:
            return ir.Constant(VF, [1.0] * LANES)
        return builder.fpext(builder.load(at(builder, values[1], VH), align=1), VF)

    return f32x16(array, pointer), generate


@intrinsic  # type: ignore[untyped-decorator]
def read_as_f32(typing_context: Any, array: Any, p: Any) -> Any:
    """Read one element of `array`'s type at p, widened: float32, or bfloat16 seen as uint16."""
    half = array.dtype == types.uint16

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        if not half:
            return builder.load(at(builder, values[1], F32))
        bits = builder.zext(builder.load(at(builder, values[1], ir.IntType(16))), I32)
        return builder.bitcast(builder.shl(bits, I32(16)), F32)

    return types.float32(array, pointer), generate


@intrinsic  # type: ignore[untyped-decorator]
def write_as(typing_context: Any, array: Any, p: Any, x: Any) -> Any:
    """Write float32 x at p as an element of `array`: float32, float16 seen as uint16, or int8.

    Float16 is rounded to nearest even; for int8, x is an integer.
    """
    half, whole = array.dtype == types.uint16, array.dtype == types.int8

    def generate(context: Any, builder: Builder, signature: Any, values: Any) -> Value:
        x = values[2]
        x = builder.fptrunc(x, F16) if half else builder.fptosi(x, I8) if whole else x
        builder.store(x, at(builder, values[1], x.type))
        return context.get_dummy_value()

    return types.void(array, pointer, types.float32), generate


@instruction(types.float32, pointer)
def read_f16(b: Builder, p: Value) -> Value:
    """Read one float16, widened."""
    return b.fpext(b.load(at(b, p, F16)), F32)


@instruction(types.void, pointer, types.float32)
def write_f32(b: Builder, p: Value, x: Value) -> None:
    """Write one float32."""
    b.store(x, at(b, p, F32))


@instruction(types.void, pointer, types.int32)
def write_i32(b: Builder, p: Value, x: Value) -> None:
    """Write one int32."""
    b.store(x, at(b, p, I32))


@instruction(types.float32, pointer)
def read_f32(b: Builder, p: Value) -> Value:
    """Read one float32."""
    return b.load(at(b, p, F32))


@instruction(f32x16, types.float32)
def splat(b: Builder, x: Value) -> Value:
    """Copy a float32 to all lanes."""
    return spread(b, x)


@instruction(f32x16, types.float32)
def count_up(b: Builder, first: Value) -> Value:
    """Return first, first + 1, ... first + 15."""
    return b.fadd(spread(b, first), ir.Constant(VF, [float(i) for i in range(LANES)]))


@instruction(i32x16, types.int32)
def splat_i32(b: Builder, x: Value) -> Value:
    """Copy an int32 to all lanes."""
    return spread(b, x)
