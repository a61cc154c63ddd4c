"""Keeps a first run, which compiles kernels, within its memory: a process of its own does it.

The compiler takes memory that no later run needs. Where the budget has no room for that, another
process compiles, ends, and leaves the kernels in the cache folder.
"""

from __future__ import annotations

import os
import subprocess
import sys

from cpumix.errors import BudgetError
from cpumix.kernels.compile import jit
from cpumix.quant.precision import Precision
from cpumix.units import MIB, format_size

COMPILER_BYTES = 150 * MIB  # what compiling takes besides: 90 to 120 MiB, measured on Linux x86-64

APART = "_CPUMIX_COMPILES_APART"  # in the environment of that process, which starts no other


def compile_apart(room: int, precision: Precision, kv: str) -> bool:
    """Compile in another process if a run may have to compile, and has less room than that takes.

    `room` is what the budget leaves; `precision` is the model file's. Returns whether it was
    needed. Raises BudgetError where the kernels cannot be kept: this process would have to compile.
    """
    names = [name for name in sorted(precision.formats) if jit.is_cold(f"-{name}-{kv}")]
    if room >= COMPILER_BYTES or APART in os.environ or not names:
        return False
    if jit.cache_folder() is None:
        raise BudgetError(
            f"memory: expected {format_size(COMPILER_BYTES)} more for compiling the kernels, as no "
            f"cache folder keeps them, found {format_size(max(room, 0))}. Raise --ram by "
            f"{-(-(COMPILER_BYTES - room) // MIB)}M, or set CPUMIX_CACHE_DIR to a folder of yours."
        )
    call = f"from cpumix.measure import warmup; warmup.compile_for({names!r}, {kv!r})"
    subprocess.run(
        [sys.executable, "-c", call],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, APART: "1"},
        check=False,  # what it has not compiled, this process will
    )
    return True
