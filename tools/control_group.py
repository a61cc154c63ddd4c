"""Run a program in a control group with a memory limit, as a container does; Linux, as root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A control group below our own, version 1 or 2."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        is_v1 = (folder / "memory.limit_in_bytes").exists()
        self._peak = folder / ("memory.max_usage_in_bytes" if is_v1 else "memory.peak")
        limit = folder / ("memory.limit_in_bytes" if is_v1 else "memory.max")
        limit.write_text(str(limit_bytes))

    def start(self, command: list[str]) -> subprocess.Popen[str]:
        """Start a program in the group; its output can be read from `stdout`."""
        return subprocess.Popen(
            [
                "sh",
                "-c",
                'echo $$ > "$0" && exec "$@"',
                str(self.folder / "cgroup.procs"),
                *command,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def peak_bytes(self) -> int:
        """The most memory that the group has had, page cache included."""
        return int(self._peak.read_text()) if self._peak.exists() else 0


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """Make a group, and remove it when all in it have ended; OSError where that is not allowed."""
    folder = _own_folder() / f"cpumix-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    try:
        yield MemoryGroup(folder, limit_bytes)
    finally:
        for _ in range(50):
            try:
                folder.rmdir()
                break
            except OSError:  # the last process is still on its way out
                time.sleep(0.1)


def _own_folder() -> Path:
    """Return the folder of our own memory group."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, names, path = line.split(":", 2)
        if "memory" in names.split(","):
            return ROOT / "memory" / path.lstrip("/")
        if number == "0" and not names:
            unified = ROOT / path.lstrip("/")
            if (unified / "memory.max").exists():
                return unified
    raise OSError("no control group with a memory controller")
