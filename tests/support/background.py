"""Long runs of Python that begin with the test session, and that some tests wait for at its end.

Compiling the kernels for a level of instructions keeps one processor busy for half a minute, while
most tests keep only one other busy. conftest.py begins the runs that the chosen tests wait for, and
puts these tests (marked `background`) last.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

Done = subprocess.CompletedProcess[str]
_pool = ThreadPoolExecutor(max((os.cpu_count() or 1) - 1, 1))  # one processor is for the tests
_running: set[subprocess.Popen[str]] = set()
_lock, _ended = threading.Lock(), threading.Event()


class Background:
    """One command, run once for each of some named environments."""

    def __init__(
        self, command: Sequence[str], environments: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._command, self._environments = command, environments
        self._runs: dict[str, Future[Done]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._environments

    def begin(self) -> None:
        """Queue the runs, unless they are."""
        for name in self._environments.keys() - self._runs.keys():
            self._runs[name] = _pool.submit(_run, self._command, self._environments[name])

    def result(self, name: str) -> Done:
        """Wait for a run to end."""
        return self._runs[name].result()


def end() -> None:
    """End what still runs: nobody will ask for it."""
    with _lock:
        _ended.set()
        for process in _running:
            process.kill()
    _pool.shutdown(cancel_futures=True)


def backgrounds(modules: Iterable[object]) -> list[Background]:
    """Return what tests of these modules wait for."""
    values = (value for module in modules for value in vars(module).values())
    return [value for value in values if isinstance(value, Background)]


def _run(command: Sequence[str], environment: Mapping[str, str]) -> Done:
    with _lock:
        if _ended.is_set():
            raise RuntimeError("the session has ended")
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _running.add(process)
    output, errors = process.communicate()
    with _lock:
        _running.discard(process)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
