"""Traces, as a collector gets them over HTTP."""

from __future__ import annotations

import http.server
import re
import sys
import threading
import time
from contextlib import contextmanager

import httpx2
import pytest
from click.testing import CliRunner
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from served_models import serve

import cpumix
from cpumix.cli.main import main
from cpumix.errors import ConfigError
from cpumix.serve import tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "the harvest of Babylon"


class Collector:
    """A collector of OpenTelemetry that keeps what it gets."""

    def __init__(self, status: int) -> None:
        self.status, self.bodies, self.paths = status, [], []

    @property
    def spans(self):
        found = []
        for body in self.bodies:
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    found += scope.spans
        return found

    def resource(self):
        request = ExportTraceServiceRequest.FromString(self.bodies[0])
        return values(request.resource_spans[0].resource)


@contextmanager
def collecting(status: int = 200):
    collector = Collector(status)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            collector.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            collector.paths.append(self.path)
            self.send_response(collector.status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", collector
        finally:
            server.shutdown()
            thread.join()


def values(thing) -> dict:
    found = {}
    for one in thing.attributes:
        found[one.key] = getattr(one.value, one.value.WhichOneof("value"))
    return found


@pytest.fixture(scope="module")
def traced(chat_file, classifier_file):
    """Some requests to two servers; return the spans by the request's id, and a server's log."""
    requests = {
        "whole": ("/v1/completions", {"prompt": SECRET, "max_tokens": 5, "n": 2, "seed": 1}),
        "stream": ("/v1/completions", {"prompt": SECRET, "max_tokens": 5, "stream": True}),
        "tgi": ("/generate", {"inputs": SECRET, "parameters": {"max_new_tokens": 3}}),
        "vectors": ("/v1/embeddings", {"input": [SECRET, "a"]}),
        "wrong": ("/v1/completions", {"prompt": SECRET, "n": 99}),
        "nowhere": (f"/{SECRET.replace(' ', '-')}", {}),
    }
    with collecting() as (endpoint, collector):
        with (
            cpumix.load(chat_file, parallel=2, threads=1) as model,
            serve(model, otlp_endpoint=endpoint) as served,
        ):
            for name, (path, body) in requests.items():
                headers = {"x-request-id": name}
                if name == "whole":
                    headers |= {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "a=b"}
                answer = httpx2.post(served.url + path, json=body, headers=headers)
                assert answer.headers["x-request-id"] == name
            unsampled = {"traceparent": f"00-{TRACE[::-1]}-{PARENT}-00"}
            httpx2.get(f"{served.url}/health", headers=unsampled)
            odd = {"traceparent": f"00-{SECRET}"}
            httpx2.get(f"{served.url}/health", headers={**odd, "x-request-id": "odd"})
        yield collector, served.log


def request_span(traced, identity):
    (span,) = [s for s in traced[0].spans if values(s).get("cpumix.request_id") == identity]
    children = [s for s in traced[0].spans if s.parent_span_id == span.span_id]
    return span, sorted(
        children, key=lambda s: (values(s).get("cpumix.choice", 0), s.start_time_unix_nano)
    )


def test_a_request_is_a_span_of_the_trace_that_asked(traced):
    span, children = request_span(traced, "whole")
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert span.trace_state == "a=b"
    assert (span.name, span.kind) == ("POST /v1/completions", span.SPAN_KIND_SERVER)
    told = values(span)
    assert (told["http.route"], told["http.response.status_code"]) == ("/v1/completions", 200)
    assert {child.trace_id.hex() for child in children} == {TRACE}
    line = next(line for line in traced[1] if line.get("request_id") == "whole")
    assert line["trace_id"] == TRACE


def test_texts_wait_are_read_and_are_written(traced):
    _, children = request_span(traced, "whole")
    assert [child.name for child in children] == ["queue", "prompt", "decode"] * 2
    for queue, prompt, decode in (children[:3], children[3:]):
        assert queue.end_time_unix_nano == pytest.approx(prompt.start_time_unix_nano, abs=2e6)
        assert prompt.end_time_unix_nano == pytest.approx(decode.start_time_unix_nano, abs=2e6)
        for child in (queue, prompt, decode):
            assert child.start_time_unix_nano <= child.end_time_unix_nano
        assert values(decode)["gen_ai.usage.output_tokens"] == 5
        assert values(decode)["cpumix.finish_reason"] == "length"
        assert values(prompt)["gen_ai.usage.input_tokens"] > 3
    assert [values(child)["cpumix.choice"] for child in children] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(("name", "tokens"), [("stream", 5), ("tgi", 3)])
def test_streams_and_other_dialects(traced, name, tokens):
    span, children = request_span(traced, name)
    assert [child.name for child in children] == ["queue", "prompt", "decode"]
    assert values(children[2])["gen_ai.usage.output_tokens"] == tokens
    assert not span.parent_span_id
    assert span.trace_id.hex() != TRACE


def test_vectors_have_a_queue_and_a_prompt(traced):
    _, children = request_span(traced, "vectors")
    assert [child.name for child in children] == ["queue", "prompt"]
    assert values(children[1])["cpumix.texts"] == 2


def test_what_is_refused_is_a_span_too(traced):
    span, children = request_span(traced, "wrong")
    assert (values(span)["http.response.status_code"], children) == (400, [])
    span, _ = request_span(traced, "nowhere")
    assert (span.name, values(span)["http.response.status_code"]) == ("POST other", 404)


def test_a_trace_that_is_not_sampled_is_not_sent(traced):
    assert TRACE[::-1] not in {span.trace_id.hex() for span in traced[0].spans}
    span, _ = request_span(traced, "odd")  # a traceparent that is none begins a trace
    assert not span.parent_span_id


def test_no_text_is_sent(traced):
    collector, _ = traced
    assert {*collector.paths} == {"/v1/traces"}
    sent = b"".join(collector.bodies)
    for word in SECRET.split():
        assert word.encode() not in sent or len(word) < 4
    assert collector.resource()["service.name"] == "cpumix"


def test_the_environment_names_the_service(monkeypatch, chat_file):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mixtral-in-the-hall")
    with collecting() as (endpoint, collector):
        traces = tracing.Tracing(f"{endpoint}/v1/traces", lambda *a, **k: None)
        traces.begin("GET", {}).end("GET", "/health", 500, {}, [])
        traces.close()
    assert collector.paths == ["/v1/traces"]
    assert collector.resource()["service.name"] == "mixtral-in-the-hall"
    (span,) = collector.spans
    assert span.status.code == span.status.STATUS_CODE_ERROR


def test_a_collector_that_fails_harms_nobody_and_is_told_once(chat_file, monkeypatch):
    monkeypatch.setattr(tracing, "CLOSE_SECONDS", 0.5)
    with collecting(status=400) as (endpoint, collector):
        with (
            cpumix.load(chat_file, threads=1) as model,
            serve(model, otlp_endpoint=endpoint) as served,
        ):
            for _ in range(3):
                body = {"prompt": "a", "max_tokens": 2}
                assert httpx2.post(f"{served.url}/v1/completions", json=body).status_code == 200
        deadline = time.monotonic() + 30
        while not collector.bodies and time.monotonic() < deadline:
            time.sleep(0.01)
    told = [line for line in served.log if line["event"] == "traces"]
    assert len(told) == 1
    assert "400" in told[0]["error"]


@pytest.mark.parametrize(
    "endpoint", ["localhost:4318", "ftp://a", "http://", "http://a:99999999", "", "http://[::1"]
)
def test_endpoint_that_is_none(endpoint):
    with pytest.raises(ConfigError, match="--otlp-endpoint: expected the URL of a collector, such"):
        tracing.traces_url(endpoint)


@pytest.mark.parametrize("end", ["", "/", "/v1/traces"])
def test_endpoint_is_that_of_the_collector_or_of_its_traces(end):
    assert tracing.traces_url(f"https://host:1/base{end}") == "https://host:1/base/v1/traces"


def test_command_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "cpumix.serve.tracing")
    monkeypatch.delattr("cpumix.serve.tracing", raising=False)
    done = CliRunner().invoke(main, ["serve", "--port", "0", "--otlp-endpoint", "http://a"])
    assert done.exit_code == 1
    assert re.search(
        r'--otlp-endpoint: expected the package "opentelemetry.*", found none.*cpumix\[otlp\]',
        done.stderr,
    )


def test_command_sends_traces(monkeypatch):
    from cpumix.serve import server

    monkeypatch.setattr(server, "run", lambda app, sockets, alive: app._tracing is not None)
    with collecting() as (endpoint, _):
        done = CliRunner().invoke(main, ["serve", "--port", "0", "--otlp-endpoint", endpoint])
    assert done.exit_code == 0
    done = CliRunner().invoke(main, ["serve", "--port", "0", "--otlp-endpoint", "here"])
    assert done.exit_code == 1
    assert "--otlp-endpoint: expected the URL of a collector" in done.stderr
