"""Runs of one command at every level that this machine has, side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cpumix.kernels.compile.isa import VARIABLE, host_features, supported

SUPPORTED = [level.name for level in supported(host_features())]
Run = Future[subprocess.CompletedProcess[str]]


def run(
    command: Sequence[str], cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments; return when it has ended, however it has."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )


def start(command: Sequence[str], environments: Mapping[str, Mapping[str, str]]) -> dict[str, Run]:
    """Start Python once for each environment, as many at a time as there are processors.

    Compiling for a level keeps one processor busy for 10 to 20 seconds.
    """
    pool = ThreadPoolExecutor(os.cpu_count())
    runs = {name: pool.submit(run, command, **e) for name, e in environments.items()}
    pool.shutdown(wait=False)
    return runs


def at(level: str, **environment: str) -> dict[str, str]:
    """Return the environment that forces a level."""
    return {VARIABLE: level, **environment}
