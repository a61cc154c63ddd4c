"""How many threads work, on whose account, and under which of numba's threading layers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from levels import run, start
from naive import WITHOUT_JIT

LAYERS = ("omp", "tbb", "workqueue")
NO_LAYER = "No threading layer could be loaded"

SAY = """
import json, numba, cpumix
with cpumix.load() as model:
    logits = model.logits(model.tokenizer.encode("And they returned to the city" * 20))
    tokens = model.generate_ids([1, 2, 3], 8)
    answer = numba.threading_layer(), model.threads, logits.tobytes().hex()[:2000], tokens
print(json.dumps(answer))
"""
WHO_WORKS = """
import json, sys
from pathlib import Path
import numpy as np, cpumix
with cpumix.load(threads=int(sys.argv[1])) as model:
    model.logits(list(range(3, 300)))
    seconds = []
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        seconds.append(int(fields[11]) + int(fields[12]))  # in user mode, in the system
print(json.dumps(seconds))
"""
ON_ONE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import cpumix
with cpumix.load() as model:
    print(model.threads)
"""

pytestmark = pytest.mark.skipif(WITHOUT_JIT, reason="there are no threads without the JIT")


@pytest.fixture(scope="module")
def answers():
    """One model's under each layer; the kernels on disk serve them all."""
    path = [str(Path(sys.prefix) / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    libraries = {"LD_LIBRARY_PATH": os.pathsep.join(path)}  # pip puts TBB where no loader looks
    environments = {name: {"NUMBA_THREADING_LAYER": name, **libraries} for name in LAYERS}
    return start(["-c", SAY], environments)


@pytest.mark.parametrize("layer", LAYERS)
def test_same_bits_under_every_layer(answers, layer):
    done, usual = (answers[name].result() for name in (layer, "workqueue"))
    if NO_LAYER in done.stderr:
        found = (Path(sys.prefix) / "lib" / "libtbb.so.12").exists()
        assert not (layer == "tbb" and found)
        pytest.skip(f"{layer} is not installed")
    assert done.returncode == 0, done.stderr
    name, *answer = json.loads(done.stdout)
    assert name == layer
    assert answer == json.loads(usual.stdout)[1:]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no account of threads")
def test_only_our_threads_work():
    """NumPy's library for matrices has threads of its own, which would take turns with ours."""
    done = run(["-c", WHO_WORKS, "1"])
    assert done.returncode == 0, done.stderr
    seconds = json.loads(done.stdout)
    assert max(seconds) > 0.8 * sum(seconds)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not bound here")
def test_process_on_one_processor_has_one_thread():
    assert run(["-c", ON_ONE]).stdout.split() == ["1"]
