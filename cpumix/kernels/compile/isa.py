"""Instruction-set levels: which this processor has, and which one the kernels are compiled for.

A level is a row in `LEVELS`, best last. `CPUMIX_ISA=NAME` forces a lower one, for tests and for bug
reports; LLVM is then told to compile for a processor that stops at that level, so that what is
tested is what such a machine would run. The level is chosen once per process, when the kernels are
first imported: they are compiled for one level only.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import lru_cache

import llvmlite.binding as llvm

from cpumix.errors import UnsupportedCpu

VARIABLE = "CPUMIX_ISA"


@dataclass(frozen=True)
class Level:
    """One set of instructions that the kernels know how to use."""

    name: str
    features: tuple[str, ...]
    """LLVM's names of the processor features that the level needs; all must be present."""
    processor: str
    """LLVM's name of a processor that has this level and no more; used when it is forced."""


LEVELS = (
    Level("generic", (), ""),
    Level("avx2", ("avx2", "fma", "f16c"), "haswell"),
    Level("avxvnni", ("avx2", "fma", "f16c", "avxvnni"), "alderlake"),
    Level("avx512", ("avx512f", "avx512bw", "avx512vl"), "skylake-avx512"),
    Level("avx512vnni", ("avx512f", "avx512bw", "avx512vl", "avx512vnni"), "icelake-server"),
    Level("amx", ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "amx-tile", "amx-int8"), ""),
    Level("neon", ("neon", "dotprod"), "neoverse-n1"),  # ARM's only one beside generic
)
AT_HWCAP, HWCAP_ASIMDDP = 16, 1 << 20  # Linux's linux/auxvec.h, and its asm/hwcap.h for ARM


def arm_features() -> frozenset[str]:
    """Return what LLVM may not tell of an ARM processor: on some systems its list is empty."""
    if not llvm.get_process_triple().startswith(("aarch64", "arm64")):
        return frozenset()
    if sys.platform == "linux":
        auxiliary = ctypes.CDLL(None).getauxval
        auxiliary.argtypes, auxiliary.restype = (ctypes.c_ulong,), ctypes.c_ulong
        return frozenset({"neon", "dotprod"} if auxiliary(AT_HWCAP) & HWCAP_ASIMDDP else {"neon"})
    return frozenset({"neon", "dotprod"} if sys.platform == "darwin" else {"neon"})  # every Mac


@lru_cache(maxsize=1)
def host_features() -> frozenset[str]:
    """Return LLVM's names of the features that this processor and operating system offer."""
    told = (name for name, present in llvm.get_host_cpu_features().items() if present)
    return arm_features().union(told)


def supported(features: frozenset[str]) -> tuple[Level, ...]:
    """Return the levels that a processor with these features can run, best last."""
    return tuple(level for level in LEVELS if features.issuperset(level.features))


def choose(forced: str | None, features: frozenset[str]) -> Level:
    """Return the forced level, or the best one that the features allow.

    Raises UnsupportedCpu for a name that is no level, and for a level that the processor lacks.
    """
    usable = supported(features)
    if not forced:
        return usable[-1]
    for level in LEVELS:
        if level.name == forced:
            if level not in usable:
                missing = ", ".join(f for f in level.features if f not in features)
                raise UnsupportedCpu(
                    f'{VARIABLE}="{forced}": this processor lacks {missing}. '
                    f"Unset {VARIABLE}, or use one of: {', '.join(u.name for u in usable)}."
                )
            return level
    names = ", ".join(level.name for level in usable)
    raise UnsupportedCpu(
        f'{VARIABLE}="{forced}": no such level. Unset {VARIABLE}, or use one of: {names}.'
    )


@lru_cache(maxsize=1)
def active() -> Level:
    """Return the level of this process: what `CPUMIX_ISA` asks for, else the best."""
    return choose(os.environ.get(VARIABLE), host_features())
