"""The x86 instructions that differ by level: sums of byte products, look-ups in a table.

`dot4` adds to each int32 lane the products of its four weight bytes with four activation bytes. The
VNNI levels take weights as unsigned bytes (code + 128, as stored; the accumulator starts at -128 x
the activations' sum); the others take signed ones, because `vpmaddubsw` saturates on 255 x 127 +
255 x 127.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .vectors import I8, I32, VB, VI, Builder, Value, external

HALF = 8
VI8, VB32 = ir.VectorType(I32, HALF), ir.VectorType(I8, 32)
VS16, VS32 = ir.VectorType(ir.IntType(16), 16), ir.VectorType(ir.IntType(16), 32)


def halves(builder: Builder, v: Value) -> tuple[Value, Value]:
    """Split 16 lanes into two registers of 8."""
    empty = ir.Constant(VI, ir.Undefined)
    low, high = (ir.Constant(VI8, list(range(start, start + HALF))) for start in (0, HALF))
    return builder.shuffle_vector(v, empty, low), builder.shuffle_vector(v, empty, high)


def join(builder: Builder, low: Value, high: Value) -> Value:
    """Undo `halves`."""
    return builder.shuffle_vector(low, high, ir.Constant(VI, list(range(2 * HALF))))


def by_halves(emit: Any, builder: Builder, *vectors: Value) -> Value:
    """Apply a 256-bit instruction to both halves of 512-bit operands."""
    parts = [halves(builder, v) for v in vectors]
    return join(builder, *(emit(builder, *(part[side] for part in parts)) for side in (0, 1)))


def dot4_avx512vnni(b: Builder, acc: Value, w: Value, x: Value) -> Value:
    """vpdpbusd, 512 bits."""
    # Declared with i32 vectors: the only form that older LLVM knows; newer ones upgrade it.
    return b.call(external(b, "llvm.x86.avx512.vpdpbusd.512", VI, [VI] * 3), [acc, w, x])


def dot4_avxvnni(b: Builder, acc: Value, w: Value, x: Value) -> Value:
    """vpdpbusd, twice 256 bits."""

    def emit(b: Builder, *operands: Value) -> Value:
        return b.call(external(b, "llvm.x86.avx512.vpdpbusd.256", VI8, [VI8] * 3), operands)

    return by_halves(emit, b, acc, w, x)


def dot4_avx512(b: Builder, acc: Value, w: Value, x: Value) -> Value:
    """Vpmaddubsw of |w| and x with w's sign, then vpmaddwd by ones; 512 bits."""
    bytes_w, bytes_x = b.bitcast(w, VB), b.bitcast(x, VB)
    zero = ir.Constant(VB, [0] * 64)
    negative = b.icmp_signed("<", bytes_w, zero)
    magnitude = b.select(negative, b.sub(zero, bytes_w), bytes_w)
    signed = b.select(negative, b.sub(zero, bytes_x), bytes_x)
    pairs = b.call(
        external(b, "llvm.x86.avx512.pmaddubs.w.512", VS32, [VB, VB]), [magnitude, signed]
    )
    ones = ir.Constant(VS32, [1] * 32)
    return b.add(
        acc, b.call(external(b, "llvm.x86.avx512.pmaddw.d.512", VI, [VS32, VS32]), [pairs, ones])
    )


def dot4_avx2(b: Builder, acc: Value, w: Value, x: Value) -> Value:
    """Vpmaddubsw of |w| and x with w's sign, then vpmaddwd by ones; twice 256 bits."""

    def emit(b: Builder, acc: Value, w: Value, x: Value) -> Value:
        bytes_w, bytes_x = b.bitcast(w, VB32), b.bitcast(x, VB32)
        magnitude = b.call(
            external(b, "llvm.abs.v32i8", VB32, [VB32, ir.IntType(1)]), [bytes_w, ir.IntType(1)(0)]
        )
        signed = b.call(
            external(b, "llvm.x86.avx2.psign.b", VB32, [VB32, VB32]), [bytes_x, bytes_w]
        )
        pairs = b.call(
            external(b, "llvm.x86.avx2.pmadd.ub.sw", VS16, [VB32, VB32]), [magnitude, signed]
        )
        ones = ir.Constant(VS16, [1] * 16)
        return b.add(
            acc, b.call(external(b, "llvm.x86.avx2.pmadd.wd", VI8, [VS16, VS16]), [pairs, ones])
        )

    return by_halves(emit, b, acc, w, x)


def lookup_512(b: Builder, table: Value, index: Value) -> Value:
    """vpshufb: look every byte of `index` (0..15) up in its quarter's 16-byte table."""
    found = b.call(
        external(b, "llvm.x86.avx512.pshuf.b.512", VB, [VB, VB]),
        [b.bitcast(table, VB), b.bitcast(index, VB)],
    )
    return b.bitcast(found, VI)


def lookup_256(b: Builder, table: Value, index: Value) -> Value:
    """vpshufb, twice 256 bits."""

    def emit(b: Builder, table: Value, index: Value) -> Value:
        shuffle = external(b, "llvm.x86.avx2.pshuf.b", VB32, [VB32, VB32])
        return b.bitcast(b.call(shuffle, [b.bitcast(table, VB32), b.bitcast(index, VB32)]), VI8)

    return by_halves(emit, b, table, index)
