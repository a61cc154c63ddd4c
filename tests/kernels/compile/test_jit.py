"""Machine code is kept where it is found again, and never survives an edit of its source."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import numba
import numpy as np
import pytest
from levels import run, start
from naive import GENERIC, WITHOUT_JIT
from numba.core.errors import NumbaPerformanceWarning

import cpumix
from cpumix.kernels.compile import jit
from cpumix.kernels.compile.code_cache import turn
from cpumix.kernels.compile.jit import kernel, parallel_kernel, prange

pytestmark = pytest.mark.slow

PACKAGE = Path(cpumix.__file__).parent
CACHE_VARIABLE = "CPUMIX_CACHE_DIR"


@pytest.fixture
def package(tmp_path):
    """A copy of the package, to edit."""
    return Path(shutil.copytree(PACKAGE, tmp_path / "cpumix", ignore=lambda *_: {"demo"}))


# Which code is found again
# ------------------------------------------------------------------------------------------------


def test_key_changes_with_every_source(package, monkeypatch):
    monkeypatch.setattr(jit, "__file__", str(package / "kernels" / "compile" / "jit.py"))
    keys = {jit.source_key()}
    sources = [*(package / "kernels").rglob("*.py"), *(package / "quant").rglob("*.py")]
    for path in sources:
        text = path.read_text(encoding="utf-8")
        path.write_text(text + "\n", encoding="utf-8")
        keys.add(jit.source_key())
        path.write_text(text, encoding="utf-8")
    assert len(keys) == len(sources) + 1
    assert jit.source_key() in keys


def test_key_changes_with_versions_processor_and_level(monkeypatch):
    keys = {jit.source_key()}
    for module in (numba, jit.llvmlite):
        monkeypatch.setattr(module, "__version__", "999")
        keys.add(jit.source_key())
    monkeypatch.setattr(sys, "version", "4")
    keys.add(jit.source_key())
    monkeypatch.setattr(jit.llvm, "get_host_cpu_name", lambda: "z80")
    keys.add(jit.source_key())
    monkeypatch.setattr(jit, "host_features", lambda: frozenset({"quantum"}))
    keys.add(jit.source_key())
    assert len(keys) == 6


CALLEE = """
from .compile.jit import kernel
@kernel
def answer(x):
    return x + 1
"""
CALLER = """
from .callee import answer
from .compile.jit import kernel
@kernel
def ask(x):
    return answer(x)
"""
ASK = "from cpumix.kernels.caller import ask; print(ask(41), sum(ask.stats.cache_hits.values()))"


@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is kept")
def test_edited_callee_gives_the_new_answer(package, tmp_path):
    """Numba alone looks at the caller's file only, and keeps giving the old answer."""
    place = {"cwd": package.parent, CACHE_VARIABLE: str(tmp_path / "cache")}
    (package / "kernels" / "caller.py").write_text(CALLER)
    (package / "kernels" / "callee.py").write_text(CALLEE)
    first = run(["-c", ASK], **place)
    assert first.stdout.split() == ["42", "0"], first.stderr
    assert run(["-c", ASK], **place).stdout.split() == ["42", "1"]  # read from disk
    # Of another size: within a second, Python itself notices no other edit.
    (package / "kernels" / "callee.py").write_text(CALLEE.replace("x + 1", "x + -1"))
    assert run(["-c", ASK], **place).stdout.split() == ["40", "0"]


@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is kept")
def test_works_where_nothing_can_be_written(package, tmp_path):
    (package / "kernels" / "caller.py").write_text(CALLER)
    (package / "kernels" / "callee.py").write_text(CALLEE)
    (tmp_path / "file").write_text("in the way")
    place = {"cwd": package.parent, CACHE_VARIABLE: str(tmp_path / "file")}
    code = f"{ASK}\nfrom cpumix.kernels.compile.jit import cache_folder; print(cache_folder())"
    done = run(["-W", "error", "-c", code], **place)
    assert done.stdout.split() == ["42", "0", "None"], done.stderr


ANSWER = """
import sys
from cpumix.kernels.caller import ask
kinds = {"int": 41, "float": 41.0, "complex": 41 + 0j, "bool": True}
for name in sys.argv[1:]:
    print(ask(kinds[name]), len(ask.stats.cache_hits))
"""


@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is kept")
def test_processes_that_start_at_once_keep_one_anothers_work(package, tmp_path):
    """Numba alone can lose an entry of its index, or give two signatures the same file."""
    (package / "kernels" / "caller.py").write_text(CALLER)
    (package / "kernels" / "callee.py").write_text(CALLEE)
    place = {"cwd": package.parent, CACHE_VARIABLE: str(tmp_path / "cache")}
    expected = {"int": "42", "float": "42.0", "complex": "(42+0j)", "bool": "2"}
    runs = {name: start(["-c", ANSWER, name], {"": place})[""] for name in expected}
    for name, done in runs.items():
        assert done.result().stdout.split() == [expected[name], "0"], done.result().stderr
    later = run(["-c", ANSWER, *expected], **place).stdout.splitlines()
    assert later == [f"{value} {i + 1}" for i, value in enumerate(expected.values())]


@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is kept")
def test_few_rows_take_one_thread_and_both_codes_are_kept(tmp_path, monkeypatch):
    """Numba's own index does not tell apart what was compiled with other options."""

    def double(x, rows):
        for row in prange(rows):
            x[row] *= 2

    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    for compiles in (1, 0):
        made = jit.row_kernel(double)
        together, alone = made.variants
        assert (together.targetoptions.get("parallel"), alone.targetoptions.get("parallel")) == (
            True,
            None,
        )
        for rows, used in ((jit.ALONE, alone), (jit.ALONE + 1, together)):
            x = np.ones(10)
            made(x, rows)
            assert x.sum() == 10 + rows
            assert sum(used.stats.cache_misses.values()) == compiles
            assert sum(used.stats.cache_hits.values()) == 1 - compiles


def make(name, step):
    """Make a kernel that calls another, both for a format."""

    @jit.specialised(kernel, name)
    def inner(x):
        return x + step

    @jit.specialised(kernel, name)
    def outer(x):
        return inner(x)

    return outer


@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is kept")
def test_kernels_made_for_formats_are_kept_apart(tmp_path, monkeypatch):
    """Numba's own index never finds a closure over a kernel again, in another process."""
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    for compiles in (1, 0):
        for name, step in (("q8", 1), ("q4", 2)):
            made = make(name, step)
            assert made(41) == 41 + step
            assert sum(made.stats.cache_misses.values()) == compiles
            assert sum(made.stats.cache_hits.values()) == 1 - compiles
    assert {p.name.split("-")[0] for p in tmp_path.rglob("*.nbi")} >= {
        f"test_jit.{name}" for name in ("inner_q8", "inner_q4", "outer_q8", "outer_q4")
    }


USE_Q8 = """
import numpy as np
from cpumix.kernels import create_backend
from cpumix.kernels.compile import jit
from cpumix.kernels.compile.code_cache import turn
from cpumix.kernels.operands import Matmul, MatmulGroup, TiledMatrix
from cpumix.kernels.rows import Rows
weight = TiledMatrix("q8", np.ones((2, 1, 544), np.uint8))
out = np.zeros((1, 32), np.float32)
create_backend(1).multiply(MatmulGroup([Matmul(weight, Rows(1, 32), 0, 1, out)]))
print(*(path.name.split("-")[0] for path in jit.compiled_files()))
"""


@pytest.mark.slow
@pytest.mark.skipif(GENERIC, reason="its kernels know no format")
def test_only_formats_in_use_are_compiled(tmp_path):
    done = run(["-c", USE_Q8], CPUMIX_CACHE_DIR=str(tmp_path))
    assert "matmul.multiply_q8" in done.stdout, done.stderr
    others = [name for name in ("q6", "q4", "bf16") if name in done.stdout]
    assert not others


@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is kept")
def test_damaged_file_is_compiled_again(tmp_path, monkeypatch):
    """Whichever byte it is, of an index or of machine code, and wherever a file was cut off."""

    def add(x):
        return x + 1

    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    assert kernel(add)(41) == 42
    assert sum((found := kernel(add)).stats.cache_hits.values()) == 0 and found(41) == 42
    assert sum(found.stats.cache_hits.values()) == 1
    for path in sorted([*tmp_path.rglob("*.nbc"), *tmp_path.rglob("*.nbi")]):
        whole = path.read_bytes()
        places = np.random.default_rng(0).integers(0, len(whole), 40)
        broken = [whole[:p] + bytes([whole[p] ^ 0x41]) + whole[p + 1 :] for p in places]
        for content in [*broken, b"", whole[:20], whole[: len(whole) // 2], whole + b"."]:
            path.write_bytes(content)
            again = kernel(add)
            assert again(41) == 42
            assert sum(again.stats.cache_misses.values()) == 1
            assert sum(again.stats.cache_hits.values()) == 0
            repaired = kernel(add)  # what was compiled is kept again
            assert repaired(41) == 42
            assert sum(repaired.stats.cache_hits.values()) == 1


@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is kept")
def test_full_disk_keeps_nothing_and_does_no_harm(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    assert kernel(lambda x: x + 1)(41) == 42
    assert not list(tmp_path.rglob("*.nbc"))


# Where it is kept
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def roots(tmp_path, monkeypatch):
    """The two places of a Linux user, empty, and `find` to ask anew."""
    if sys.platform in ("win32", "darwin"):
        pytest.skip("other places there")
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    preferred, second = jit.cache_roots()
    assert preferred == tmp_path / "cache" / "cpumix"
    assert second.parent == tmp_path / "tmp"
    return preferred, second


find = jit.cache_folder.__wrapped__


def test_folder_is_made_in_the_preferred_place(roots):
    assert find() == roots[0] / jit.source_key()
    assert find().is_dir()
    assert find().stat().st_mode & 0o777 == 0o700
    assert not roots[1].exists()


def test_named_folder_is_the_only_place(roots, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "named"))
    assert jit.cache_roots() == [tmp_path / "named"]
    assert find() == tmp_path / "named" / jit.source_key()


def test_place_that_cannot_be_written_is_passed_over(roots):
    roots[0].parent.mkdir()
    roots[0].write_text("a file in the way")
    assert find() == roots[1] / jit.source_key()


def test_no_place_at_all(roots):
    for root in roots:
        root.parent.mkdir(exist_ok=True)
        root.write_text("a file in the way")
    assert find() is None


def test_place_other_than_the_preferred_is_said(roots, monkeypatch):
    monkeypatch.setattr(jit, "cache_folder", find)
    assert jit.cache_note() is None
    shutil.rmtree(roots[0])
    roots[0].write_text("a file in the way")
    assert jit.cache_note() == (
        f"{roots[0]} is no folder, so compiled kernels are kept in {roots[1]}"
    )
    shutil.rmtree(roots[1])
    roots[1].write_text("a file in the way")
    assert jit.cache_note() == (
        f"{roots[0]} is no folder, so every run compiles; set CPUMIX_CACHE_DIR to a folder of "
        "your own"
    )


@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is kept")
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="other places there")
def test_run_says_in_one_line_where_it_keeps_code_instead(tmp_path):
    (tmp_path / "file").write_text("in the way")
    second = tmp_path / f"cpumix-{os.getuid()}"
    second.mkdir(mode=0o700)
    kept = jit.cache_folder()  # where compiled kernels are, to be quick
    with turn(kept):  # other tests may be compiling
        shutil.copytree(kept, second / kept.name, ignore=shutil.ignore_patterns("run-*"))
    place = {"XDG_CACHE_HOME": str(tmp_path / "file"), "TMPDIR": str(tmp_path), CACHE_VARIABLE: ""}
    done = run(["-m", "cpumix", "run", "-p", "And", "-n", "1"], **place)
    assert done.returncode == 0, done.stderr
    said = f"{tmp_path}/file/cpumix cannot be made, so compiled kernels are kept in {second}\n"
    assert done.stderr.endswith(said)
    assert done.stderr.count("\n") == 1


def test_cold_until_a_run_has_been_through(tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    assert jit.is_cold()
    jit.mark_warm()
    assert not jit.is_cold()
    assert jit.is_cold("-int8-f16")  # of which a run may have left out a part
    jit.mark_warm("-int8-f16")
    assert not jit.is_cold("-int8-f16") and jit.is_cold("-int8-f32")
    monkeypatch.setattr(jit, "cache_folder", lambda: None)
    jit.mark_warm()
    assert jit.is_cold()


def test_others_keep_their_cache_folder():
    before = numba.config.CACHE_DIR
    kernel(lambda x: x)
    assert before == numba.config.CACHE_DIR


# How it is compiled
# ------------------------------------------------------------------------------------------------


def compiled():
    """Yield (name, function) of all kernels of this process's level."""
    names = ["scalar", "generic"] if GENERIC else ["scalar", "matmul", "attention", "norm", "route"]
    for name in names:
        module = import_module(f"cpumix.kernels.{name}")
        for attribute, value in vars(module).items():
            for variant in getattr(value, "variants", (value,)):
                if isinstance(variant, numba.core.registry.CPUDispatcher):
                    yield f"{name}.{attribute}, {variant.targetoptions.get('parallel')}", variant


@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is compiled")
def test_no_kernel_has_fastmath_or_keeps_the_lock():
    """Fastmath would reorder sums and assume that there is no NaN."""
    found = dict(compiled())
    assert len(found) > 5
    for name, function in found.items():
        options = function.targetoptions
        assert not options.get("fastmath"), name
        assert options["nogil"], name
        assert options["error_model"] == "numpy", name


@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is compiled")
def test_lost_parallelism_is_an_error_here():
    """A kernel that raises loses its parallel loop; numba warns, and here warnings are errors."""

    def raises(x):
        for i in prange(x.size):
            if x[i] < 0:
                raise ValueError
            x[i] += 1

    with pytest.raises(NumbaPerformanceWarning):
        parallel_kernel(raises)(np.zeros(4))


def test_division_by_zero_is_a_number():
    divide = kernel(lambda a, b: a / b)
    with np.errstate(divide="ignore"):
        assert divide(np.float32(1), np.float32(0)) == np.inf


def test_threads_are_at_most_those_there_are():
    most = jit.most_threads()
    assert jit.set_threads(10**6) == most
    assert jit.set_threads(1) == 1
    assert most >= 1
