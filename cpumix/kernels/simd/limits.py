"""What this machine can do at most: reading memory, and multiplying bytes in registers.

`bench` runs these beside the real kernels in the same minute, so that every figure explains itself.
"""

from __future__ import annotations

import time

import numpy as np
from llvmlite import ir
from numba.core import types
from numpy.typing import NDArray

from ..compile.jit import kernel, parallel_kernel, prange
from ..rows import LINE, aligned_zeros
from .lanes import either
from .level import LEVEL
from .vectors import (
    I64,
    VI,
    Address,
    Builder,
    Lanes,
    Stack,
    Value,
    address,
    at,
    i32x16,
    instruction,
    load_i32,
    pointer,
    prefetch_l2,
    splat_i32,
    store_i32,
)

CHAINS = 12  # independent sums: more than latency x throughput of any dot4 so far
REPEATS = 16
STRIP = 1 << 16  # bytes; a thread reads many, one after the other
AHEAD = 4096  # bytes: alone, a processor's prefetchers reach 70 to 95 % of what they do with this

chains = Stack(i32x16, CHAINS)


@instruction(chains)
def no_chains(b: Builder) -> Value:
    """Return sums that are zero."""
    return ir.Constant(chains.llvm, None)


@instruction(chains, chains, i32x16, i32x16)
def dot4_chains(b: Builder, acc: Value, w: Value, x: Value) -> Value:
    """`dot4` into every sum, REPEATS times, from registers only."""
    for _ in range(REPEATS):
        for i in range(CHAINS):
            acc = b.insert_value(acc, LEVEL.dot4(b, b.extract_value(acc, i), w, x), i)
    return acc


@instruction(types.void, pointer, chains)
def store_chains(b: Builder, p: Value, acc: Value) -> None:
    """Store all sums, so that the compiler must make them."""
    for i in range(CHAINS):
        b.store(b.extract_value(acc, i), at(b, b.add(p, I64(64 * i)), VI), align=1)


@kernel
def read_strip(p: Address) -> Lanes:
    """Read one strip; return something that depends on all of it."""
    a = b = c = d = splat_i32(0)
    for i in range(0, STRIP, 256):
        for line in range(i + AHEAD, i + AHEAD + 256, LINE):
            prefetch_l2(p + line)
        a, b = either(a, load_i32(p + i)), either(b, load_i32(p + i + 64))
        c, d = either(c, load_i32(p + i + 128)), either(d, load_i32(p + i + 192))
    return either(either(a, b), either(c, d))


@parallel_kernel
def read_all(data: NDArray[np.uint8], sink: NDArray[np.uint8]) -> None:
    """Read data (bytes, a multiple of STRIP) with all threads; sink (>= strips, 64) u8."""
    for strip in prange(data.shape[0] // STRIP):
        store_i32(address(sink) + 64 * strip, read_strip(address(data) + STRIP * strip))


@parallel_kernel
def multiply_registers(rounds: int, sink: NDArray[np.uint8]) -> None:
    """Run `dot4` on every thread; sink (threads, >= 64 (CHAINS + 2)) u8."""
    for worker in prange(sink.shape[0]):
        p = address(sink) + worker * sink.strides[0]
        acc, w, x = no_chains(), load_i32(p), load_i32(p + 64)
        for _ in range(rounds):
            acc = dot4_chains(acc, w, x)
        store_chains(p + 128, acc)


class Limits:
    """Measures the limits; memory for it is allocated once."""

    def __init__(self, threads: int, read_bytes: int = 1 << 29) -> None:
        self._threads = threads
        self._data: NDArray[np.uint8] = np.ones(read_bytes // STRIP * STRIP, np.uint8)
        self._sink = aligned_zeros((read_bytes // STRIP, 64), np.uint8)
        self._registers = aligned_zeros((threads, 4096), np.uint8)
        self.read_gb_s()
        self.int8_gmac_s(1)

    def read_gb_s(self) -> float:
        """Return the speed of a plain streaming read of memory, in 10^9 bytes per second."""
        began = time.perf_counter()
        read_all(self._data, self._sink)
        return self._data.nbytes / (time.perf_counter() - began) / 1e9

    def int8_gmac_s(self, rounds: int = 100_000) -> float:
        """Return the speed of `dot4` from registers, in 10^9 multiply-adds per second."""
        began = time.perf_counter()
        multiply_registers(rounds, self._registers)
        macs = self._threads * rounds * REPEATS * CHAINS * 64
        return macs / (time.perf_counter() - began) / 1e9
