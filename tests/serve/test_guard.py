"""Who may ask, what is logged, and what bodies may be."""

from __future__ import annotations

import json
import socket
import time

import httpx2
import pytest
from served_models import serve

import cpumix
from cpumix.serve import log as logs
from cpumix.serve.guard import OPEN_PATHS

KEYS = ["first-key", "second-key"]


@pytest.fixture(scope="module")
def locked(chat_file):
    with (
        cpumix.load(chat_file, threads=1) as model,
        serve(model, keys=KEYS, origins=["https://good.example"]) as served,
    ):
        yield served


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/nowhere", "/v1/chat/completions"])
@pytest.mark.parametrize(
    "headers", [{}, bearer("first-ke"), bearer("x"), {"authorization": "Basic first-key"}]
)
def test_every_route_wants_a_key(locked, path, headers):
    answer = httpx2.get(locked.url + path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert "first" not in answer.text


def test_keys_open_and_health_needs_none(locked):
    for key in KEYS:
        assert httpx2.get(f"{locked.url}/v1/models", headers=bearer(key)).status_code == 200
    assert {"/health"} == OPEN_PATHS
    assert httpx2.get(f"{locked.url}/health").json() == {"status": "ok"}


def test_keys_do_not_share_cached_prompts(locked):
    body = {"prompt": "ab cd " * 60, "max_tokens": 1}

    def cached(key):
        answer = httpx2.post(f"{locked.url}/v1/completions", json=body, headers=bearer(key))
        return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached(KEYS[0]) == 0
    assert cached(KEYS[0]) > 0
    assert cached(KEYS[1]) == 0


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 403), ("evil.example:80", 403), ("localhost:8080", 200), ("[::1]:80", 200)],
)
def test_names_of_strangers_are_refused(tiny, host, status):
    answer = httpx2.get(f"{tiny.url}/v1/models", headers={"host": host})
    assert answer.status_code == status
    if status == 403:
        assert "Host: expected an address or a name" in answer.json()["error"]["message"]


def test_pages_of_strangers_are_refused(tiny, locked):
    for origin in ("https://evil.example", "null"):
        answer = httpx2.get(f"{tiny.url}/v1/models", headers={"origin": origin})
        assert answer.status_code == 403
        assert "Origin: expected a page of this server" in answer.json()["error"]["message"]
    own = httpx2.get(f"{tiny.url}/v1/models", headers={"origin": tiny.url})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers
    wanted = {"origin": "https://good.example", "access-control-request-method": "POST"}
    allowed = httpx2.options(f"{locked.url}/v1/chat/completions", headers=wanted)
    assert allowed.headers["access-control-allow-origin"] == "https://good.example"


def test_request_ids(tiny):
    given = httpx2.get(f"{tiny.url}/health", headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    made = httpx2.get(f"{tiny.url}/health", headers={"x-request-id": "no good"})
    assert len(made.headers["x-request-id"]) == 32


def test_log_has_no_prompt_key_or_path(locked):
    words = "secret-words-of-mine"
    body = {"prompt": words, "max_tokens": 1}
    httpx2.post(f"{locked.url}/v1/completions?{words}", json=body, headers=bearer(KEYS[0]))
    httpx2.post(f"{locked.url}/{words}", json=body, headers=bearer(KEYS[0]))
    httpx2.get(f"{locked.url}/v1/models/{words}", headers=bearer(KEYS[0]))
    time.sleep(0.2)  # the log comes after the answer
    told = json.dumps(locked.log)
    assert words not in told
    assert "key" not in told
    assert any(line.get("generated_tokens") == 1 for line in locked.log)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "expected JSON, found other text"),
        (b'"\xff"', "expected JSON, found other text"),
        (b"[" * 100_000, "expected JSON, found other text"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"prompt": 1}', "body: Expected"),
        (b"{}", "missing required field 'prompt'"),
    ],
)
def test_bodies_that_are_none(tiny, body, message):
    answer = httpx2.post(f"{tiny.url}/v1/completions", content=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_bodies_are_limited(tiny):
    answer = httpx2.post(f"{tiny.url}/v1/completions", content=b" " * (9 << 20))
    assert answer.status_code == 413


def test_slow_clients_are_left(tiny, monkeypatch):
    monkeypatch.setattr("cpumix.serve.wire.BODY_SECONDS", 0.1)
    monkeypatch.setattr("cpumix.serve.server.HEAD_SECONDS", 0.1)
    port = int(tiny.url.rpartition(":")[2])
    for sent, found in (
        (b"POST /v1/completions HTTP/1.1\r\nHost: a", b""),
        (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", b"408"),
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(sent)
            assert connection.recv(100)[9:12] == found
    head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: "
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head + b"a" * 60_000)
        assert connection.recv(100)[9:12] == b"400"


def test_wrong_routes_and_methods(tiny):
    assert httpx2.get(f"{tiny.url}/nowhere").json()["error"]["type"] == "not_found_error"
    assert httpx2.get(f"{tiny.url}/v1/chat/completions").status_code == 405


def test_log_lines(capsys):
    logs.create_log("json")("request", status=200)
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "request"
    assert line["status"] == 200
    logs.create_log("text")("request", status=200)
    assert "status=200" in capsys.readouterr().err


def test_defects_are_answered_and_logged(tiny, monkeypatch):
    monkeypatch.setattr(tiny.service, "write", lambda requests: 1 / 0)
    answer = httpx2.post(f"{tiny.url}/v1/completions", json={"prompt": "a"})
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "The engine failed; see its log."
    end = time.monotonic() + 30  # the log comes after the answer
    while not any("ZeroDivisionError at test_guard.py" in str(line) for line in tiny.log):
        assert time.monotonic() < end
        time.sleep(0.01)
