"""`cpumix warmup` leaves nothing to compile."""

from __future__ import annotations

import re
import sys

import pytest
from click.testing import CliRunner
from levels import run
from naive import WITHOUT_JIT

from cpumix.cli.main import main
from cpumix.kernels.compile import jit
from cpumix.kernels.compile.isa import active
from cpumix.measure import warmup

pytestmark = pytest.mark.slow

USE = """
import sys
from pathlib import Path
from numba.core.registry import CPUDispatcher
import cpumix
source, target = map(Path, sys.argv[1:])
for precision, kv in (("int4", "int8"), ("bf16", "auto"), ("int8", "auto")):
    cpumix.convert(source, target, precision, force=True)
    with cpumix.load(target, kv=kv) as model:
        list(model.generate("And they returned to the city", max_tokens=2, temperature=0.5))
kernels = [module for name, module in sys.modules.items() if name.startswith("cpumix.kernels")]
compiled = [
    function.py_func.__name__
    for module in kernels
    for value in vars(module).values()
    for function in getattr(value, "variants", (value,))
    if isinstance(function, CPUDispatcher) and function.stats.cache_misses
]
print(compiled)
"""


@pytest.mark.slow
@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is compiled")
def test_nothing_is_left_to_compile(checkpoint_folder, tmp_path):
    done = run(["-m", "cpumix", "warmup"])
    assert done.returncode == 0, done.stderr
    words = rf"kernels for {active().name}: ready after \d+\.\d s, kept in (.*)\n"
    assert re.fullmatch(words, done.stdout)[1] == str(jit.cache_folder())
    used = run(["-c", USE, str(checkpoint_folder), str(tmp_path / "model.bin")])
    assert used.stdout.split("\n")[0] == "[]", used.stderr
    assert not jit.is_cold()


@pytest.mark.parametrize("call", [warmup.OTHERS, warmup.ATTENTION.format("f16")])
def test_helper_does_its_part(call):
    """Its failures are not seen: all would only take longer."""
    done = run(["-W", "error", "-c", f"from cpumix.measure import warmup; warmup.{call}"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(WITHOUT_JIT, reason="nothing is compiled")
def test_helper_is_not_needed(monkeypatch):
    monkeypatch.setattr(warmup, "OTHERS", "raise SystemExit('no')")
    steps = []
    assert warmup.warm_up(lambda done, total: steps.append((done, total))) == jit.cache_folder()
    total = steps[-1][1]
    assert steps == [(i, total) for i in range(total + 1)]


@pytest.mark.parametrize("cold", [True, False])
def test_first_run_is_helped_as_long_as_it_takes(monkeypatch, cold):
    begun = []
    start = warmup.subprocess.Popen

    def note(command, **options):
        begun.append(start([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        assert command[-1].endswith("compile_attention('int8')")
        return begun[-1]

    monkeypatch.setattr(jit, "is_cold", lambda: cold)
    monkeypatch.setattr(warmup.subprocess, "Popen", note)
    with warmup.helped("int8"):
        assert [helper.poll() for helper in begun] == [None] * cold
    assert all(helper.returncode for helper in begun)  # ended, before it was done


def test_nowhere_to_keep_it_is_one_sentence(monkeypatch):
    monkeypatch.setattr(jit, "cache_folder", lambda: None)
    monkeypatch.setattr(jit, "cache_note", lambda: None)
    result = CliRunner().invoke(main, ["warmup"])
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "cpumix: error: cache: expected a folder that can be written, found none to keep compiled "
        "kernels in. Set CPUMIX_CACHE_DIR to one."
    )
