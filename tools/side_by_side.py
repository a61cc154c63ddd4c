"""What tools share that run other programs beside cpumix, in turns."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

import click

from cpumix.machine import processor_name


def run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. Raises ClickException with its last words if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise click.ClickException(f"{words[0]} failed with status {done.returncode}: {last[0]}")
    return done


def head(threads: int, rounds: int, memory: Sequence[float]) -> str:
    """Return the lines above a table: the machine, and memory's GB/s in each round."""
    speeds = ", ".join(f"{speed:.1f}" for speed in memory)
    return (
        f"{processor_name()}, {threads} threads, median of {rounds} rounds in turns\n"
        f"memory in these rounds: {speeds} GB/s"
    )


def to_json(threads: int, memory: Sequence[float], rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows and what `head` tells as one JSON object."""
    machine = {"processor": processor_name(), "threads": threads, "memory_gb_s": memory}
    return json.dumps({**machine, "rows": rows})
