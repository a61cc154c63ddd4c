"""The kernels at every other level that this machine has, and the command at one it has not."""

from __future__ import annotations

from pathlib import Path

import pytest
from levels import SUPPORTED, at, run

from cpumix.kernels.compile.isa import LEVELS, active

KERNELS = Path(__file__).parents[1]
KERNEL_TESTS = sorted(str(path) for path in KERNELS.glob("test_*.py"))
WITHOUT_JIT = "generic-without-jit"


# The kernel tests, in one process for each level: a process compiles for one only.
RUN_TESTS = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"]
ENVIRONMENTS = {
    **{name: at(name) for name in SUPPORTED if name != active().name},
    WITHOUT_JIT: at("generic", NUMBA_DISABLE_JIT="1"),
}


# Logits of the demo model, of 80 tokens at once and of one.
LOGITS = """
import hashlib
import cpumix
with cpumix.load(threads=1, context=128) as model:
    found = [model.logits(list(ids)).tobytes() for ids in (range(3, 83), [7])]
print(*(hashlib.sha256(logits).hexdigest() for logits in found))
"""
SIMD = [name for name in SUPPORTED if name != "generic"]


@pytest.mark.slow
@pytest.mark.isa
@pytest.mark.long_run
def test_simd_levels_give_the_same_logits():
    """To the bit; only the portable kernels sum in another order."""
    if len(SIMD) < 2:
        pytest.skip("this processor has one level")
    found = {name: run(["-c", LOGITS], **at(name)) for name in SIMD}
    assert all(done.returncode == 0 for done in found.values()), found
    assert len({done.stdout for done in found.values()}) == 1


@pytest.mark.slow
@pytest.mark.isa
@pytest.mark.long_run
@pytest.mark.parametrize("level", [*(level.name for level in LEVELS), WITHOUT_JIT])
def test_kernels_at_level(level):
    if level == active().name:
        pytest.skip("every other test runs at it")
    if level not in ENVIRONMENTS:
        pytest.skip("this processor lacks it")
    done = run([*RUN_TESTS, *KERNEL_TESTS], **ENVIRONMENTS[level])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_portable_kernels_load_no_instructions():
    """Numba's intrinsics do not exist without the JIT."""
    code = """
import sys
from cpumix.kernels import create_backend, encode
create_backend(1)
assert "cpumix.kernels.generic" in sys.modules
assert not [name for name in sys.modules if name.startswith("cpumix.kernels.simd")]
"""
    done = run(["-c", code], **at("generic", NUMBA_DISABLE_JIT="1"))
    assert done.returncode == 0, done.stderr


def test_unknown_level_is_one_sentence():
    done = run(["-m", "cpumix", "run", "-p", "hello", "-n", "1"], **at("avx9"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith('cpumix: error: CPUMIX_ISA="avx9": no such level. Unset ')
    assert done.stderr.count("\n") == 1
    assert all(name in done.stderr for name in SUPPORTED)


def test_level_that_is_forced_is_taken():
    code = "from cpumix.kernels.compile.isa import active; print(active().name)"
    assert run(["-c", code], **at("generic")).stdout.split() == ["generic"]
    assert run(["-c", code], **at("")).stdout.split() == [SUPPORTED[-1]]
