"""Batches as files, and `cpumix batch` in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from cpumix.cli.main import main


def write_lines(path: Path, lines: Sequence[Any]) -> Path:
    """Write objects as JSON lines; bytes as they are."""
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(data) + b"\n")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def run_batch(*arguments: object) -> Result:
    """Run the command on one thread, with a context of 512 unless another is given."""
    context = [] if "-c" in arguments else ["-c", "512"]
    return CliRunner().invoke(main, ["batch", *map(str, arguments), *context, "-t", "1"])
