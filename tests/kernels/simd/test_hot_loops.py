"""The loops where the time goes hold the level's instruction and nothing that slows it down.

Levels that this machine lacks are compiled too, ARM's on x86; see `hot_loops`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from functools import lru_cache
from hashlib import sha256
from itertools import product
from pathlib import Path

import hot_loops
import pytest
from hot_loops import LEVELS, LOOPS, ONLY, innermost_loops
from levels import at, run_once

from cpumix.kernels.compile.jit import cache_folder

DOT = {
    "avx2": r"vpmaddubsw\s.*ymm",
    "avxvnni": r"vpdpbusd\s.*ymm",
    "avx512": r"vpmaddubsw\s.*zmm",
    "avx512vnni": r"vpdpbusd\s.*zmm",
    "amx": r"vpdpbusd\s.*zmm",
    "neon": r"sdot\s.*16b",
}
KINDS = {  # what a kind of processor calls: look-up, multiply-add, half and byte to float
    "x86": (r"vpshufb", r"vfmadd\d+ps", r"vcvtph2psx?", r"vcvtdq2ps"),
    "arm": (r"tbl", r"fmla", r"fcvtl", r"scvtf"),
}
FORBIDDEN = {  # gathers, elements one by one, and scalar arithmetic
    "x86": r"v?p?gather|vpinsr|vpextr|vmulss|vaddss|vfmadd\d+ss|imul|mulb|div|call",
    "arm": r"ins|umov|smov|fmadd|fmul\s+s\d|mul|madd|[su]div|bl\b",
}
STACK = r"\(%rsp|\[sp"
# Where 16 registers do not hold a block's sums and the totals, or LLVM loads ARM's registers ahead:
# at most one access of the stack for so many multiplications.
SPILLING = {
    ("avx2", "matvec.one_row@q8"): 2,  # decode waits for memory anyway
    ("avx2", "matvec.one_row@q4"): 2,
    ("avx2", "matvec.one_row@q6"): 1 / 3,  # a third more instructions than q4, and three masks
    ("avxvnni", "matvec.one_row@q6"): 0.8,
    ("neon", "matvec.one_row@q6"): 5,
    ("neon", "gemm_small.token_rows@q6"): 1.4,
    ("avxvnni", "gemm.first_rows@q6"): 3,
    ("avxvnni", "gemm.first_rows@q8"): 3,  # once for all rows of a chunk
    ("avxvnni", "gemm.first_rows@q4"): 2,
    ("avxvnni", "gemm.panel_rows"): 4,
    # Shift bits and planes of bits bring masks, which LLVM keeps on the stack.
    ("avx2", "matvec.one_row@q4s"): 1.1,
    ("avx2", "matvec.one_row@q3s"): 0.39,
    ("avx2", "matvec.one_row@q2s"): 0.65,
    ("avxvnni", "matvec.one_row@q4s"): 3,
    ("avxvnni", "matvec.one_row@q3s"): 0.55,
    ("avxvnni", "matvec.one_row@q2s"): 2.2,
    ("avxvnni", "gemm.first_rows@q4s"): 2.4,
    ("avxvnni", "gemm.first_rows@q3s"): 1.5,
    ("avxvnni", "gemm.first_rows@q2s"): 2.2,
    ("avx512", "matvec.one_row@q4s"): 16,  # the addresses of both tiles, once a block
    ("avx512", "matvec.one_row@q3s"): 16,
    ("avx512vnni", "gemm_small.token_rows@q3s"): 10,
    ("avx512vnni", "gemm.first_rows@q4s"): 30,
    ("avx512vnni", "gemm.first_rows@q3s"): 20,
    ("avx512vnni", "gemm.first_rows@q2s"): 20,
    ("amx", "gemm_small.token_rows@q3s"): 30,
    ("neon", "matvec.one_row@q3s"): 1.2,
    ("neon", "gemm_small.token_rows@q3s"): 1,
    ("avx2", "gemm_small.token_rows@bf16"): 8,
    ("avxvnni", "gemm_small.token_rows@bf16"): 8,
    ("neon", "gemm_small.token_rows@bf16"): 8,
    ("neon", "matvec.one_row@bf16"): 4,
}
KERNELS = [
    *(f"{name}@{kind}" for name, formats in LOOPS.items() for kind in formats),
    "gemm.panel_rows",
    *(
        f"attention_block.{name}@{kv}"
        for name in ("score_pair", "weigh_rows")
        for kv in ("f16", "int8")
    ),
]

pytestmark = [pytest.mark.slow, pytest.mark.isa]


@pytest.fixture(scope="session")
def loops_of(shared_folder):
    """Return the loops of each kernel at a level; they are found once and kept with the kernels.

    Their folder is named by all that machine code depends on, and the run by its program's text.
    """
    program = Path(hot_loops.__file__)
    folder, text = cache_folder() or shared_folder, sha256(program.read_bytes()).hexdigest()

    @lru_cache
    def compiled(level: str) -> subprocess.CompletedProcess[str]:
        # What is kept on disk has no assembly: this file is in the way of a cache.
        environment = at(level, CPUMIX_CACHE_DIR=__file__, PROGRAM=text)
        return run_once(folder, [str(program)], environment)

    def find(level: str) -> dict[str, list[str]]:
        done = compiled(level)
        if "No available targets" in done.stderr:
            pytest.skip("this LLVM does not write the level's code")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return find


def instructions(loop: str) -> list[str]:
    """Return the lines that are instructions, without the prefix that says how they are encoded."""
    return [re.sub(r"^\t(\{\w+\}\s*)?", "", x) for x in loop.splitlines() if x.startswith("\t")]


def wanted_in(kernel: str, level: str) -> list[str]:
    """Return the patterns that a kernel's hot loop must match."""
    look_up, multiply_add, half, byte = KINDS["arm" if level == "neon" else "x86"]
    if "bf16" in kernel:
        return [multiply_add]
    if "attention" in kernel:
        return [multiply_add, half if kernel.endswith("f16") else byte]
    if "q4" in kernel and "first_rows" not in kernel:  # whose loops for tables and sums may differ
        return [DOT[level], look_up]
    return [DOT[level]]


@pytest.mark.long_run
@pytest.mark.parametrize(
    ("level", "kernel"),
    [
        (level, kernel)
        for level, kernel in product(LEVELS, KERNELS)
        if level in ONLY.get(kernel, LEVELS)
    ],
)
def test_hot_loop(loops_of, level, kernel):
    first, *others = wanted_in(kernel, level)
    loops = [instructions(loop) for loop in loops_of(level)[kernel]]
    hot = [loop for loop in loops if any(re.match(first, x) for x in loop)]
    assert hot
    for loop in hot:
        for pattern in others:
            assert any(re.match(pattern, x) for x in loop), pattern
        slow = [x for x in loop if re.match(FORBIDDEN["arm" if level == "neon" else "x86"], x)]
        assert not slow
        spills = [x for x in loop if re.search(STACK, x)]
        useful = sum(bool(re.match(first, x)) for x in loop)
        most = useful / SPILLING[level, kernel] if (level, kernel) in SPILLING else 0
        assert len(spills) <= most, f"{useful} multiplications, {len(spills)} of: {spills}"


@pytest.mark.long_run
def test_scaling_by_multiples_multiplies_once(loops_of):
    """For each row and tile of a block: 8 `vpdpbusd`, one subtraction, one multiply-add."""
    loops = map(instructions, loops_of("avx512vnni")["gemm.panel_rows"])
    counts = [Counter(x.split("\t")[0] for x in loop) for loop in loops]
    (names,) = (names for names in counts if names["vpdpbusd"])
    assert names["vpdpbusd"] == 8 * names["vsubps"] == 8 * names["vfmadd231ps"]
    assert not names["vmulps"] + names["vcvtdq2ps"]


@pytest.mark.long_run
def test_amx_multiplies_tiles(loops_of):
    loops = map(instructions, loops_of("amx")["simd.amx.panel_rows"])
    found = [Counter(x.split("\t")[0] for x in loop) for loop in loops]
    hot = [names for names in found if names["tdpbssd"]]
    assert hot
    for names in hot:
        assert names["tileloadd"] == 2 * names["tdpbssd"] == 2 * names["tilestored"]
        assert names["callq"] == 0
    assert any(names["vfmadd213ps"] + names["vfmadd231ps"] >= 16 for names in hot)


@pytest.mark.parametrize(
    ("assembly", "loops"),
    [
        ("a:\n\tadd\n\tjne\ta\n\tret", ["a:\n\tadd\n\tjne\ta"]),
        ("a:\n\tadd\nb:\n\tsub\n\tjl\tb\n\tjmp\ta\n", ["b:\n\tsub\n\tjl\tb"]),
        ("b:\n\tcbnz\tx1, c\nc:\n\ttbz\tw2, #3, b\n", ["b:\n\tcbnz\tx1, c\nc:\n\ttbz\tw2, #3, b"]),
        (".L1:\n\tsubs\n\tb.ne\t.L1\n.L2:\n\tb\t.L3\n.L3:\n", [".L1:\n\tsubs\n\tb.ne\t.L1"]),
        ("a:\n\tret\nb:\n\tjmp\tc\nc:\n\tcall\tb\n", []),
    ],
)  # fmt: skip
def test_innermost_loops_are_found(assembly, loops):
    assert innermost_loops(assembly) == loops
