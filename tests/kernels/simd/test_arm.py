"""ARM: its machine code is written on any machine, and the kernels are looked at where they run."""

from __future__ import annotations

import re
from collections import Counter

import llvmlite.binding as llvm
import pytest
from hot_loops import compile_for
from llvmlite import ir

from cpumix.kernels.compile.isa import LEVELS, active
from cpumix.kernels.simd.arm import dot4_neon, lookup_128
from cpumix.kernels.simd.vectors import I32, I64, VI, at, spread

NEON = next(level for level in LEVELS if level.name == "neon")
ROWS = 2  # rows of activations in one pass over a panel, as the level has it


def assembly(build) -> str:
    """Return ARM assembly of a function of four int64 whose body `build` makes."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    except RuntimeError:
        pytest.skip("this llvmlite writes no ARM code")
    machine = target.create_target_machine(cpu=NEON.processor, opt=3)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 4), "kernel")
    b = ir.IRBuilder(function.append_basic_block())
    build(b, *function.args)
    b.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return machine.emit_assembly(parsed)


def count(text: str) -> Counter:
    """Count instructions by name."""
    return Counter(re.findall(r"^\t([a-z]\w*)", text, re.M))


def inner_loops(text: str) -> list[str]:
    """Return the loops without a jump target inside."""
    return re.findall(r"^(?:\.L\w+):\n((?:\t.*\n)*?\tb\.\w+\t\.L\w+)$", text, re.M)


def load(b, address, offset=0):
    return b.load(at(b, b.add(address, I64(offset)), VI), align=1)


def test_dot4_is_four_sdot():
    def build(b, acc, w, x, out):
        b.store(dot4_neon(b, load(b, acc), load(b, w), load(b, x)), at(b, out, VI), align=1)

    found = count(assembly(build))
    assert found.pop("sdot") == 4
    assert set(found) <= {"ldp", "stp", "ldr", "str", "ret"}


def test_lookup_is_four_tbl():
    def build(b, table, index, out, _):
        b.store(lookup_128(b, load(b, table), load(b, index)), at(b, out, VI), align=1)

    found = count(assembly(build))
    assert found.pop("tbl") == 4
    assert set(found) <= {"ldp", "stp", "ldr", "str", "ret"}


def test_sums_of_two_tiles_and_two_rows_stay_in_registers():
    def build(b, panel, x, steps, out):
        before = b.block
        loop, after = b.append_basic_block("loop"), b.append_basic_block("after")
        b.branch(loop)
        b.position_at_end(loop)
        step = b.phi(I64)
        sums = [b.phi(VI) for _ in range(2 * ROWS)]
        tiles = [load(b, b.add(panel, b.mul(step, I64(128))), 64 * i) for i in (0, 1)]
        done = []
        for row in range(ROWS):
            place = b.add(x, b.add(b.mul(step, I64(4)), I64(4096 * row)))
            value = spread(b, b.load(at(b, place, I32), align=4))
            done += [dot4_neon(b, sums[2 * row + i], tiles[i], value) for i in (0, 1)]
        following = b.add(step, I64(1))
        for phi, first, last in zip(
            [step, *sums], [I64(0), *[VI(None)] * len(sums)], [following, *done], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(last, loop)
        b.cbranch(b.icmp_signed("<", following, steps), loop, after)
        b.position_at_end(after)
        for i, total in enumerate(done):
            b.store(total, at(b, b.add(out, I64(64 * i)), VI), align=1)

    (loop,) = inner_loops(assembly(build))
    found = count(loop)
    assert found["sdot"] == 8 * ROWS
    assert found["ldr"] + found["ldp"] <= 8
    assert not re.search(r"\t(st[rp]|dup|mov\tv)|\[sp", loop)


@pytest.mark.isa
@pytest.mark.skipif(active() is not NEON, reason="this process is not at level neon")
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("matvec.one_row@q8", {"sdot"}),
        ("matvec.one_row@q4", {"sdot", "tbl"}),
        ("gemm.panel_rows", {"sdot"}),
    ],
)
def test_hot_loop_has_its_instructions_and_no_spill(name, wanted):
    loops = [loop for loop in inner_loops(compile_for(NEON)[name]) if "sdot" in loop]
    assert loops
    for loop in loops:
        assert wanted <= count(loop).keys()
        assert "[sp" not in loop
