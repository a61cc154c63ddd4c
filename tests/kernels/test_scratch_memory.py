"""What kernels work on stays theirs until they are done: no other thread's memory is written."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cpumix.kernels.compile.isa import active
from cpumix.quant import FORMATS

# Other threads ask for blocks of the sizes that encoders free, all from one heap.
BUSY_HEAP = """
import sys, threading
import numpy as np
from cpumix.kernels.encode import encode

name, columns, rounds = sys.argv[1], 2048, 300
weights = np.random.default_rng(1).normal(size=(16, columns)).astype(np.float32)
tiles, largest = encode(weights, name)
sizes = [n + 64 for n in (2048, 64 * columns, 4 * columns)]
done, written = threading.Event(), 0

def take_and_give():
    global written
    while not done.is_set():
        held = [np.full(size // 4, 7, np.float32) for size in sizes for _ in range(4)]
        written += sum((block != 7).any() for block in held)

threads = [threading.Thread(target=take_and_give) for _ in range(2)]
for thread in threads:
    thread.start()
wrong = 0
for _ in range(rounds):
    again, most = encode(weights, name)
    wrong += most != largest or not np.array_equal(again, tiles)
done.set()
for thread in threads:
    thread.join()
print(wrong, written)
"""


@pytest.mark.slow
@pytest.mark.skipif(active().name == "generic", reason="NumPy encodes here")
@pytest.mark.parametrize("name", ["q6", "q4s"])
def test_encoders_keep_their_memory(name):
    """Numba frees an array after the last line that names it, whatever points into it."""
    assert name in FORMATS
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BUSY_HEAP, name], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 0\n", "")
