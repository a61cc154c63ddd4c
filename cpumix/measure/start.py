"""How long a fresh process takes to the first token."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cpumix.cache_dir import CACHE_VARIABLE


def measure_start() -> dict[str, float]:
    """Return the seconds from starting Python to the demo model's first token.

    "cold" compiles the kernels, "warm" finds them compiled.
    """
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="cpumix-bench-") as folder:
        environment = {**os.environ, CACHE_VARIABLE: str(Path(folder))}
        for kind in ("cold", "warm"):
            began = time.perf_counter()
            command = [sys.executable, "-m", "cpumix", "run", "-p", "And", "-n", "1"]
            subprocess.run(command, env=environment, check=True, capture_output=True)
            seconds[kind] = time.perf_counter() - began
    return seconds
