"""The instructions of the level that this process runs at, under names that do not tell the level.

A new instruction set is a file of emitters beside `x86` and `arm`, and rows in `TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..compile.isa import active
from .vectors import Builder, Value, constant


class Instructions(NamedTuple):
    """What a level offers to the integer kernels."""

    dot4: Callable[..., Value]
    """Adds to each lane of acc the products of its four weight and four activation bytes."""
    lookup: Callable[..., Value]
    """Looks every byte (0..15) up in the 16-byte table that each quarter of the table holds."""
    weights: Callable[..., Value]
    """Turns stored bytes (code + 128) into what dot4 multiplies."""
    unsigned: bool
    """Whether dot4 takes code + 128, so that accumulators begin at -128 x the activations' sum."""
    tokens: int
    """Rows in one pass of prefill: the sums of two tiles must stay in registers."""
    registers: int
    """How many vector registers there are."""
    multiples: bool = False
    """Whether prefill scales by `multiples`."""


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
TOKENS = LEVEL.tokens


def signed_codes(b: Builder, codes: Value) -> Value:
    """Turn what `dot4` multiplies into signed codes."""
    return make_signed(b, codes) if LEVEL.unsigned else codes


def panel_codes(b: Builder, codes: Value) -> Value:
    """Turn what `dot4` multiplies into what a panel holds: the same, but signed for AMX."""
    return signed_codes(b, codes) if active().name == "amx" else codes
