"""Compile kernels for a level, had by this machine or not, and find the loops that they spend in.

    CPUMIX_ISA=LEVEL python tests/hot_loops.py

prints a JSON object: for each kernel, the text of its innermost loops. Nothing is run, so that a
machine writes the code of all others: ARM's too, if its LLVM knows it.
"""

from __future__ import annotations

import json
import os
import re
from importlib import import_module
from typing import Any

import llvmlite.binding as llvm

from cpumix.kernels.compile import isa

LOOPS = {  # kernels that factories make for each format
    "matvec.one_row": ("q8", "q6", "q4", "q4s", "q3s", "q2s", "bf16"),
    "gemm_small.token_rows": ("q8", "q6", "q4", "q4s", "q3s", "q2s", "bf16"),
    "gemm.first_rows": ("q8", "q6", "q4", "q4s", "q3s", "q2s"),
}
LEVELS = ("avx2", "avxvnni", "avx512", "avx512vnni", "amx", "neon")
ONLY = {  # levels that call a kernel, if not all do
    **{f"gemm_small.token_rows@{kind}": LEVELS[2:] for kind in ("q8", "q6", "q4")},
    **{f"gemm_small.token_rows@{kind}": LEVELS[2:] for kind in ("q4s", "q3s", "q2s")},
    "simd.amx.panel_rows": ("amx",),
}
KV_TYPES = {"f16": "uint16", "int8": "int8", "f32": "float32"}
PROCESSORS = {"amx": "sapphirerapids"}  # what else LLVM should compile for
X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"


def innermost_loops(assembly: str) -> list[str]:
    """Return the stretches from a label to a jump back to it that hold no such stretch."""
    lines = assembly.splitlines()
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"[.\w$]+:", line)}
    loops = []
    for i, line in enumerate(lines):
        jump = re.match(r"\t(?:j\w+|b|b\.\w+|[ct]bn?z\t.*?,)\s+(?:.*, )?([.\w$]+)\s*$", line)
        if jump and labels.get(jump[1], i) < i:
            loops.append((labels[jump[1]], i + 1))
    return [
        "\n".join(lines[first:last])
        for first, last in loops
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in loops)
    ]


def compile_for(level: isa.Level) -> dict[str, str]:
    """Return the assembly of each kernel; ends the process where LLVM does not know the machine."""
    isa.host_features = lambda: frozenset(level.features)
    isa.arm_features = lambda: frozenset()
    is_arm = llvm.get_process_triple().startswith(("aarch64", "arm64"))
    if is_arm != (level.name == "neon"):
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        llvm.get_process_triple = lambda: X86 if is_arm else ARM
    if level.name in PROCESSORS:
        os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"] = PROCESSORS[level.name], ""
    from numba.core import types

    from cpumix.kernels import attention_block, blocks, gemm_small
    from cpumix.kernels.codecs import CODECS

    found = {}

    def keep(name: str, kernel: Any, *signature: types.Type) -> None:
        if level.name in ONLY.get(name, LEVELS):
            kernel.compile(signature)
            found[name] = kernel.inspect_asm(signature)

    def named(path: str) -> Any:
        module, function = path.rsplit(".", 1)
        return getattr(import_module(f"cpumix.kernels.{module}"), function)

    number = types.int64
    tiles = types.NamedUniTuple(number, 4, blocks.TilePair)
    inputs = types.NamedUniTuple(number, 3, blocks.InputRows)
    few = {"gemm_small.token_rows": (gemm_small.TOKENS, 1, gemm_small.LINE)}
    for name, formats in LOOPS.items():
        for kind in formats:
            kernel = named(name)(CODECS[kind], *few.get(name, ()))
            if name == "gemm.first_rows":
                keep(f"{name}@{kind}", kernel, tiles, number, inputs, number, number)
            elif name in few:
                keep(f"{name}@{kind}", kernel, tiles, inputs, number, number)
            else:
                keep(f"{name}@{kind}", kernel, tiles, inputs, number)
    keep("gemm.panel_rows", named("gemm.panel_rows"), number, number, inputs, *[number] * 3)
    amx = named("simd.amx.panel_rows")
    keep("simd.amx.panel_rows", amx, number, number, inputs, number, number)
    for kv, element in KV_TYPES.items():
        keys, values = (types.Array(getattr(types, element), n, "C") for n in (4, 3))
        score, weigh = named("attention_block.score_pair"), named("attention_block.weigh_rows")
        keep(f"attention_block.score_pair@{kv}", score, number, keys, *[number] * 4)
        strided = types.NamedTuple((values, number, number), attention_block.Strided)
        keep(f"attention_block.weigh_rows@{kv}", weigh, number, number, strided, *[number] * 4)
    return found


if __name__ == "__main__":
    (asked,) = (level for level in isa.LEVELS if level.name == os.environ[isa.VARIABLE])
    loops = {name: innermost_loops(text) for name, text in compile_for(asked).items()}
    print(json.dumps(loops))
