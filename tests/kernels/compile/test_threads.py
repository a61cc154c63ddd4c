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
import json, os, time
from pathlib import Path
import numpy as np

tasks = Path("/proc/self/task")
library = [task for task in tasks.iterdir() if int(task.name) != os.getpid()]

def read(task):  # whether a thread sleeps, and how often it has been taken off a processor
    fields = dict(line.split(":\\t", 1) for line in (task / "status").read_text().splitlines())
    times = sum(int(fields[f"{kind}_ctxt_switches"]) for kind in ("voluntary", "nonvoluntary"))
    return fields["State"].startswith("S"), times

def switches():  # of a thread that sleeps all the time, the number stays
    while not all(read(task)[0] for task in library):
        time.sleep(0.01)
    return [read(task)[1] for task in library]

import cpumix
counts = [switches()]
with cpumix.load(threads=1) as model:
    model.logits(list(range(3, 300)))
    model.generate_ids([1, 2, 3], 8)
counts.append(switches())
square = np.ones((1000, 1000), np.float32)
square @ square
counts.append(switches())
print(json.dumps(counts))
"""
ON_ONE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import cpumix
with cpumix.load() as model:
    print(model.threads)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WITHOUT_JIT, reason="there are no threads without the JIT"),
]


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
    done = run(["-c", WHO_WORKS], OPENBLAS_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    before, after, used = json.loads(done.stdout)
    if before == used:
        pytest.skip("this NumPy multiplies matrices in one thread")
    assert before == after


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not bound here")
def test_process_on_one_processor_has_one_thread():
    assert run(["-c", ON_ONE]).stdout.split() == ["1"]
