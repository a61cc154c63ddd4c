"""`cpumix serve` as a process: what it refuses, how it begins and ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from click.testing import CliRunner

from cpumix.cli.main import main


def refusal(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code == 1
    return result.stderr


@contextmanager
def started(*arguments: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Run the command until the block ends; yield the process and its address."""
    command = [sys.executable, "-m", "cpumix", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline()
        assert re.search(
            r"a page to chat with it: \d+ texts at once, each of up to \d+ tokens$", said
        )
        yield process, re.match(r"(http://127\.0\.0\.1:\d+) serves ", said)[1]
    finally:
        process.kill()
        process.communicate()


def test_other_machines_need_a_key():
    assert "expected a key for other machines to show" in refusal("--host", "0.0.0.0")


def test_key_file_without_keys(tmp_path):
    (tmp_path / "keys").write_text("# none yet\n\n")
    found = refusal("--api-key-file", str(tmp_path / "keys"))
    assert "expected a key on a line, found none" in found


def test_address_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        found = refusal("--port", str(taken.getsockname()[1]))
    assert "address: expected one that is free" in found


def test_template_in_a_file(tmp_path):
    (tmp_path / "own.jinja").write_text("{% for")
    found = refusal("--port", "0", "--chat-template", str(tmp_path / "own.jinja"))
    assert "chat template: it does not compile" in found


def test_template_that_is_not_known():
    found = refusal("--port", "0", "--chat-template", "chatml")
    assert 'chat template: expected one named "chatml", found "mistral-v1"' in found
    assert found.endswith("Choose one of these.\n")
    found = refusal("--port", "0", "--chat-template", "{% for")
    assert "chat template: it does not compile" in found
    assert "--raw" not in found


def test_missing_extra(monkeypatch):
    for module in [name for name in sys.modules if name.startswith("cpumix.serve")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    monkeypatch.delattr("cpumix.serve", raising=False)
    assert 'Run: pip install "cpumix[serve]"' in refusal()


@pytest.mark.slow
def test_first_signal_lets_texts_end():
    with started("--context", "256") as (process, url):
        body = {"prompt": "And they", "max_tokens": 200, "stream": True, "ignore_eos": True}
        with httpx2.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            assert "data: [DONE]" in [*lines]
        assert process.wait(30) == 0


@pytest.mark.slow
def test_second_signal_ends_now():
    with started("--context", "2048") as (process, url):
        body = {"prompt": "And they", "max_tokens": 2000, "stream": True, "ignore_eos": True}
        with httpx2.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            threading.Event().wait(0.3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()
