"""Runs of Python in other environments: at other levels, with another cache, once in a session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from cpumix.kernels.compile.code_cache import turn
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


def run_once(
    folder: Path, command: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run Python unless that went well before; what it said then is kept in `folder`.

    Workers of one session share such a folder: who asks first runs it, and the others wait.
    """
    key = sha256(repr((list(command), sorted(environment.items()))).encode()).hexdigest()[:16]
    (place := folder / f"run-{key}").mkdir(exist_ok=True)
    with turn(place):
        if (kept := place / "said.json").exists():
            return subprocess.CompletedProcess(command, 0, *json.loads(kept.read_text()))
        done = run(command, **environment)
        if done.returncode == 0:
            (place / "new").write_text(json.dumps([done.stdout, done.stderr]))
            (place / "new").replace(kept)
        return done


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
