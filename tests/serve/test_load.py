"""Clients that leave, too many of them, and the end of the engine."""

from __future__ import annotations

import json
import re
import socket
import threading

import httpx2
import openai
import pytest
from click.testing import CliRunner
from served_models import serve, wait_for

import cpumix
from cpumix.api.errors import ApiError
from cpumix.cli.main import main
from cpumix.serve.admission import Admission

pytestmark = pytest.mark.slow
LONG = {"max_tokens": 450, "ignore_eos": True, "temperature": 0}


@pytest.fixture
def served():
    """One text at a time, so that others wait."""
    with (
        cpumix.load(context=512, threads=1) as model,
        serve(model, max_queue=1, chat_template="mistral-v1") as served,
    ):
        yield served


def post(served, **body) -> socket.socket:
    """Begin a request and return its connection."""
    sent = json.dumps({"prompt": "And they returned", **LONG, **body}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", int(served.url.rpartition(":")[2])))
    connection.sendall(head.encode() + sent)
    return connection


def is_idle(served) -> bool:
    engine = served.model.engine
    admission = served.service.admission
    return (
        not engine.scheduler.jobs
        and engine.pool.held == 0
        and admission.texts == admission.prompt_tokens == 0
    )


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_while_its_text_is_written(served, stream):
    connection = post(served, stream=stream)
    wait_for(lambda: any(job.writing for job in served.model.engine.scheduler.running))
    connection.close()
    wait_for(lambda: is_idle(served))
    (line,) = [line for line in served.log if line["event"] == "request"]
    assert line["generated_tokens"] < 450
    assert 'finished_reason="cancelled"} 1.0' in served.service.metrics.render().decode()


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_leaves_the_queue_harms_nobody(served, stream):
    with post(served, stream=True) as first:
        wait_for(lambda: len(served.model.engine.scheduler.running) == 1)
        text = served.model.engine.scheduler.running[0]
        second = post(served, stream=stream)
        wait_for(lambda: len(served.model.engine.scheduler.waiting) == 1)
        second.close()
        wait_for(lambda: not served.model.engine.scheduler.waiting)
        assert served.model.engine.scheduler.running == [text]
        assert not text.cancelled
        count = text.stats.generated_tokens
        wait_for(lambda: text.stats.generated_tokens > count)
        assert first.recv(20).startswith(b"HTTP/1.1 200")
    wait_for(lambda: is_idle(served))


def test_client_that_leaves_while_its_prompt_is_read(served):
    engine = served.model.engine
    entered, leave = threading.Event(), threading.Event()
    steps = engine.loop.steps
    forward = engine.transformer.forward

    def slow(batch, on_layer):
        def watched(done):
            entered.set()
            leave.wait(60)
            on_layer(done)

        forward(batch, watched)

    engine.transformer.forward = slow
    try:
        connection = post(served, prompt="word " * 300)
        assert entered.wait(60)
        connection.close()
        wait_for(lambda: engine.scheduler.running[0].cancelled)
    finally:
        engine.transformer.forward = forward
        leave.set()
    wait_for(lambda: is_idle(served))
    assert engine.loop.steps == steps  # the step that read the prompt was not finished


def test_full_queue_says_when_to_come_back(served):
    waiting = [post(served), post(served)]
    wait_for(lambda: served.service.admission.texts == 2)
    body = {"prompt": "And they", "max_tokens": 2}
    refused = httpx2.post(f"{served.url}/v1/completions", json=body)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "overloaded"
    assert int(refused.headers["retry-after"]) >= 1
    # OpenAI's client comes back when it is told to, and is served.
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=20) as client:
        assert client.completions.create(model="x", **body).choices[0].text
    for connection in waiting:
        connection.close()


def test_retry_after_is_the_time_that_texts_take():
    admission = Admission(parallel=2, max_queue=2, max_queue_tokens=100)
    for _ in range(100):
        admission.learn(30.0)
    tickets = [admission.enter(10) for _ in range(4)]
    with pytest.raises(ApiError, match="4 texts are being written or wait") as error:
        admission.check(1, 10)
    assert error.value.headers["retry-after"] == "15"  # two at once, 30 s each
    tickets.pop().leave()
    admission.check(1, 10)
    for _ in range(200):
        admission.learn_prompt(10, 1.0)
    with pytest.raises(ApiError, match="30 tokens of prompts wait") as error:
        admission.check(1, 170)
    assert 10 <= int(error.value.headers["retry-after"]) <= 11  # 100 tokens too many, 10 a second
    for ticket in [*tickets, *tickets]:
        ticket.leave()
    assert admission.texts == admission.prompt_tokens == 0
    admission.check(9, 9999)  # where nothing waits, anything fits


def test_retry_after_goes_by_what_was_measured_from_the_first_time_on():
    admission = Admission(parallel=1, max_queue=0, max_queue_tokens=100)
    ticket = admission.enter(100)
    admission.learn(7.0)
    with pytest.raises(ApiError, match="1 texts are being written or wait") as error:
        admission.check(1, 10)
    assert error.value.headers["retry-after"] == "7"
    ticket.leave()
    admission = Admission(parallel=9, max_queue=9, max_queue_tokens=100)
    admission.enter(100)
    admission.learn_prompt(1000, 10.0)
    admission.learn_prompt(1, 0.05)  # the rest was cached: it tells little of the rate
    with pytest.raises(ApiError, match="100 tokens of prompts wait") as error:
        admission.check(1, 500)
    assert error.value.headers["retry-after"] == "6"  # 500 tokens too many, about 100 a second


def test_dead_engine_fails_all_and_is_told(served, monkeypatch):
    assert httpx2.get(f"{served.url}/health").status_code == 200
    with httpx2.stream(
        "POST", f"{served.url}/v1/completions", json={"prompt": "And", "stream": True, **LONG}
    ) as answer:
        lines = answer.iter_lines()
        next(lines)
        monkeypatch.setattr(served.model.engine.scheduler, "plan", lambda: 1 / 0)
        rest = [*lines]
    assert any('"error"' in line for line in rest)
    wait_for(lambda: httpx2.get(f"{served.url}/health").status_code == 503)
    refused = httpx2.post(f"{served.url}/v1/completions", json={"prompt": "And"})
    assert refused.status_code == 503
    assert served.service.admission.texts == 0


def test_command_ends_with_1_when_the_engine_does(monkeypatch):
    from cpumix.serve import server

    def run(app, sockets, alive):
        return False

    monkeypatch.setattr(server, "run", run)
    result = CliRunner().invoke(main, ["serve", "--port", "0"])
    assert result.exit_code == 1
    assert "engine: expected it to run, found it ended by" in result.stderr


def test_numbers_return_to_zero(served):
    connections = [post(served, stream=bool(i % 2)) for i in range(2)]
    wait_for(lambda: served.service.admission.texts == 2)
    for connection in connections:
        connection.close()
    wait_for(lambda: is_idle(served))
    found = httpx2.get(f"{served.url}/metrics").text
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert re.search(rf"^cpumix_{name} 0\.0$", found, re.MULTILINE)
