"""`cpumix run` in a terminal: text comes while it is made, and Ctrl-C ends it well."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import cpumix

pytestmark = pytest.mark.slow

HANG_SECONDS = 600  # no run takes so long, on the slowest machine


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cpumix", "run", *map(str, arguments)]


@pytest.mark.skipif(not hasattr(socket, "SOCK_SEQPACKET"), reason="needs a pipe of messages")
def test_text_streams_through_a_pipe():
    """Each piece is written when it is made: a socket of messages keeps the writes apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    options = ("-p", "And they returned", "-n", 60, "--temperature", 0, "--threads", 1)
    process = subprocess.Popen(command(*options), stdout=theirs, stderr=subprocess.PIPE)
    theirs.close()
    with ours:
        messages = [ours.recv(1 << 16) for _ in range(4 * 60)]  # empty ones after the last
    _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 0, errors
    with cpumix.load(threads=1) as model:
        made = [*model.generate("And they returned", max_tokens=60, temperature=0), "\n"]
    assert b"".join(messages).decode() == "".join(made)
    assert sum(map(bool, messages)) >= sum(map(bool, made)) - 1 > 50


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_still_writes_the_numbers(tmp_path: Path):
    path = tmp_path / "stats.json"
    options = ("-p", "And they returned", "-n", 2000, "--stats-json", path)
    process = subprocess.Popen(command(*options), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert os.read(process.stdout.fileno(), 100)  # the text has begun
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANG_SECONDS)
    assert process.returncode == 130
    assert errors == b"interrupted\n"
    stats = json.loads(path.read_text())
    assert 1 <= stats["generated_tokens"] < 2000
    assert stats["generate_seconds"] > 0
    assert stats["threads"] >= 1
    assert stats["resident_bytes"] <= stats["mapped_bytes"]
    assert stats["isa"]
