"""Programs of others, unmodified, against a server: `make clients` installs and tests them.

They live in an environment of their own, which CPUMIX_CLIENTS names, so that they never decide
which versions cpumix is tested with.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "clients"
CLIENTS = os.environ.get("CPUMIX_CLIENTS")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CLIENTS is None, reason="needs other programs: make clients"),
]
QUESTION = "Who returned to the city?"


def run(command, **more) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **{name: str(value) for name, value in more.items()}},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(*arguments, **more) -> str:
    return run([Path(CLIENTS) / "bin" / "python", *arguments], **more)


def answer(demo, tokens: int) -> str:
    messages = [{"role": "user", "content": QUESTION}]
    plain = {"template": {"chat_template": "mistral-v1"}, "temperature": 0, "max_tokens": tokens}
    return "".join(demo.model.chat(messages, **plain))


def test_langchain(demo):
    found = json.loads(python(FOLDER / "ask_langchain.py", demo.url))
    assert found["whole"] == found["streamed"] == answer(demo, 60)
    assert found["tokens"] == 60
    assert isinstance(found["city"]["size"], int)


def test_instructor(demo):
    cities = json.loads(python(FOLDER / "ask_instructor.py", demo.url))["cities"]
    assert [set(city) for city in cities] == [{"name", "size"}] * 2


def test_llm(demo, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(
        f'- model_id: demo\n  model_name: demo\n  api_base: "{demo.url}/v1"\n'
    )
    options = ["-o", "temperature", "0", "-o", "max_tokens", "12"]
    for how in ([], ["--no-stream"]):
        said = python("-m", "llm", "-m", "demo", *options, *how, QUESTION, LLM_USER_PATH=tmp_path)
        assert said.strip() == answer(demo, 12).strip()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node: apt-get install nodejs npm")
def test_npm_openai(demo):
    modules = Path(CLIENTS) / "node_modules"
    if not modules.is_dir():
        pytest.skip("needs the npm package openai: make clients, with npm")
    found = json.loads(run(["node", FOLDER / "ask_openai.cjs", demo.url], NODE_PATH=modules))
    assert found["models"] == [demo.service.name]
    assert found["whole"] == found["streamed"] == answer(demo, 12)
    assert found["tokens"] == 12
    assert found["ends"] == ["ended", "APIUserAbortError"]
    assert found["refused"] == "BadRequestError"
    end = time.monotonic() + 60
    while demo.model.engine.scheduler.jobs or demo.service.admission.texts:
        assert time.monotonic() < end
        time.sleep(0.01)
    cancelled = [line for line in demo.log if 0 < line.get("generated_tokens", 0) < 400]
    assert cancelled
