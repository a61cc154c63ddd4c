"""/v1/embeddings and /classify: OpenAI's own client, and every limit of the other routes."""

from __future__ import annotations

import base64
import re
import threading

import httpx2
import numpy as np
import openai
import pytest
from served_models import serve, wait_for

import cpumix
from cpumix.api.readings import MAX_TEXTS
from cpumix.serve import wire

TEXTS = ["And they returned to the city.", "A wise man", "And they returned to the city."]
ROUTES = ("/v1/embeddings", "/classify")


@pytest.fixture(scope="module")
def moods(classifier_file):
    with cpumix.load(classifier_file, parallel=2, threads=1) as model, serve(model) as served:
        yield served


@pytest.fixture(scope="module")
def client(moods):
    with openai.OpenAI(base_url=f"{moods.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(served, path="/v1/embeddings", **body):
    return httpx2.post(served.url + path, json={"input": TEXTS} | body)


def is_idle(served) -> bool:
    engine = served.model.engine
    jobs = engine.loop.call(lambda: engine.scheduler.jobs)
    admission = served.service.admission
    return not jobs and admission.texts == admission.prompt_tokens == 0


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_openais_client_gets_what_the_library_makes(client, moods, form):
    answer = client.embeddings.create(model="any", input=TEXTS, **form)
    expected = moods.model.embed(TEXTS)
    found = [one.embedding for one in answer.data]
    if form == {"encoding_format": "base64"}:
        found = [np.frombuffer(base64.b64decode(one), "<f4") for one in found]
    assert (np.array(found, np.float32) == expected).all()
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert answer.model == moods.service.name
    count = sum(len(moods.model.tokenizer.encode(text)) for text in TEXTS)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (count, count)


def test_one_text_and_tokens(client, moods):
    ids = moods.model.tokenizer.encode(TEXTS[1])
    expected = moods.model.embed([TEXTS[1]])[0].tolist()
    for given in (TEXTS[1], [TEXTS[1]], ids, [ids]):
        (one,) = client.embeddings.create(model="any", input=given, encoding_format="float").data
        assert one.embedding == expected


def test_pooling_is_a_field_of_ours(client, moods):
    (one,) = client.embeddings.create(
        model="any", input="A wise man", encoding_format="float", extra_body={"pooling": "last"}
    ).data
    assert one.embedding == moods.model.embed(["A wise man"], pooling="last")[0].tolist()


def test_labels(moods):
    answer = ask(moods, "/classify", more=1)
    expected = moods.model.classify(TEXTS)
    body = answer.json()
    assert [one["label"] for one in body["data"]] == [one.label for one in expected]
    assert body["data"][1]["probs"] == pytest.approx(expected[1].probabilities)
    assert body["data"][1]["num_classes"] == 3
    assert body["labels"] == ["calm", "glad", "sad"]
    assert body["usage"]["prompt_tokens"] == sum(one.prompt_tokens for one in expected)
    assert "more" in answer.headers["x-cpumix-warning"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"dimensions": 8}, "dimensions: expected it left out"),
        ({"encoding_format": "int8"}, "encoding_format: expected float or base64, found another"),
        ({"pooling": "max"}, "pooling: expected one of mean, last"),
        ({"input": ""}, "input: expected some text, found an empty one"),
        ({"input": ["a", ""]}, "input: expected some text, found an empty one"),
        ({"input": []}, f"input: expected 1 to {MAX_TEXTS} of them, found 0"),
        ({"input": [[1]] * (MAX_TEXTS + 1)}, f"input: expected 1 to {MAX_TEXTS} of them"),
        ({"input": ["a", 5]}, "input: expected texts or lists of tokens, found a mixture"),
        ({"input": [5, 384]}, "input: expected token ids from 0 to 383"),
        ({"input": [[]]}, "prompt: expected at least one token, found none"),
        ({"input": 5}, "body: Expected"),
    ],
)
def test_what_is_refused(moods, body, message):
    answer = ask(moods, **body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ROUTES)
def test_text_longer_than_the_context(moods, path):
    error = ask(moods, path, input=["a", "word " * 600]).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "input"
    whole = [[7] * moods.model.context]
    assert ask(moods, path, input=whole).status_code == 200


def test_models_that_cannot(moods, demo):
    for path, body in (
        ("/v1/completions", {"prompt": "a"}),
        ("/generate", {"inputs": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        answer = httpx2.post(moods.url + path, json=body)
        assert answer.status_code in (400, 422)
        assert "found a classifier" in answer.text
    refused = ask(demo, "/classify")
    assert refused.status_code == 400
    assert "model: expected a classifier" in refused.json()["error"]["message"]
    assert ask(demo).status_code == 200


@pytest.mark.parametrize("path", ROUTES)
def test_keys_and_bodies(classifier_file, path, monkeypatch):
    monkeypatch.setattr(wire.read_body, "__defaults__", (1000,))
    with (
        cpumix.load(classifier_file, threads=1) as model,
        serve(model, keys=["a-key"]) as served,
    ):
        assert ask(served, path).status_code == 401
        headers = {"authorization": "Bearer a-key"}
        url = served.url + path
        assert httpx2.post(url, json={"input": "a"}, headers=headers).status_code == 200
        long = httpx2.post(url, json={"input": "a" * 1000}, headers=headers)
        assert long.status_code == 413
        assert httpx2.get(url, headers=headers).status_code == 405


@pytest.mark.slow
@pytest.mark.parametrize("path", ROUTES)
def test_queue_and_clients_that_leave(classifier_file, path):
    with (
        cpumix.load(classifier_file, threads=1) as model,
        serve(model, max_queue=0) as served,
    ):
        engine = model.engine
        entered, gate = [], []
        forward = engine.transformer.forward

        def slow(batch, on_layer):
            def watched(done):
                entered.append(done)
                wait_for(lambda: gate or any(job.cancelled for job in engine.scheduler.jobs))
                on_layer(done)

            return forward(batch, watched)

        engine.transformer.forward = slow
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(served.url + path, json={"input": TEXTS}, timeout=0.5)
        # The client has left: what it asked for ends, and the place is free.
        wait_for(lambda: entered and is_idle(served))
        with httpx2.Client(base_url=served.url) as first:
            answers = []
            held = threading.Thread(
                target=lambda: answers.append(first.post(path, json={"input": TEXTS}, timeout=60))
            )
            held.start()
            wait_for(lambda: served.service.admission.texts == 1)
            busy = ask(served, path)
            gate.append(True)
            held.join()
        assert busy.status_code == 429
        assert int(busy.headers["retry-after"]) >= 1
        assert answers[0].status_code == 200
        wait_for(lambda: is_idle(served))


def test_log_and_metrics_count_tokens_and_no_text(moods):
    before = len(moods.log)
    ask(moods)
    wait_for(lambda: len(moods.log) > before)
    line = moods.log[-1]
    count = sum(len(moods.model.tokenizer.encode(text)) for text in TEXTS)
    assert (line["path"], line["prompt_tokens"]) == ("/v1/embeddings", count)
    assert "city" not in str(line)
    found = moods.service.metrics.render().decode()
    assert re.search(r'request_success_total\{finished_reason="read"\} [1-9]', found)


def test_keys_share_no_cached_text(classifier_file):
    with (
        cpumix.load(classifier_file, threads=1) as model,
        serve(model, keys=["one", "two"]) as served,
    ):
        prefix = model.engine.scheduler.prefix

        def hits(key):
            before = prefix.hit_tokens
            headers = {"authorization": f"Bearer {key}"}
            body = {"input": "ab cd " * 60}
            assert httpx2.post(f"{served.url}/classify", json=body, headers=headers).is_success
            return prefix.hit_tokens - before

        assert hits("one") == 0
        assert hits("one") > 0
        assert hits("two") == 0
