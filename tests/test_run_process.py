"""`cpumix run` in a terminal: text comes while it is made, and Ctrl-C ends it well."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cpumix", "run", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_text_streams_through_a_pipe():
    process = start("-p", "And they returned", "-n", 400, "--temperature", 0, "--threads", 1)
    moments = []
    while piece := os.read(process.stdout.fileno(), 65536):
        moments.append((time.monotonic(), piece))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert len(moments) > 20  # reads of a pipe, each of what had come until then
    assert len(moments[0][1]) < 50
    assert moments[-1][0] - moments[0][0] > 0.02
    b"".join(piece for _, piece in moments).decode()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_still_writes_the_numbers(tmp_path: Path):
    path = tmp_path / "stats.json"
    process = start("-p", "And they returned", "-n", 2000, "--stats-json", path)
    assert os.read(process.stdout.fileno(), 100)  # the text has begun
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == b"interrupted\n"
    stats = json.loads(path.read_text())
    assert 1 <= stats["generated_tokens"] < 2000
    assert stats["generate_seconds"] > 0
    assert stats["threads"] >= 1
    assert stats["resident_bytes"] <= stats["mapped_bytes"]
    assert stats["isa"]
