"""Lines that ask for embeddings and labels: those of the library, and none changes another."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cpumix
from cpumix.batch.worker import Part

LONG = "Hello you and all that is there. " * 8


def run(worker, *lines):
    data = worker.run(Part(0, 0, [json.dumps(line).encode() for line in lines])).data
    return [json.loads(line) for line in data.splitlines()]


def request(url, **body):
    return {"custom_id": "a", "url": url, "body": body}


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_embeddings_are_those_of_the_library(make_worker, served, pooling):
    texts = [LONG, LONG + "so", "what"]
    lines = [request("/v1/embeddings", input=text, pooling=pooling) for text in texts]
    together = request("/v1/embeddings", input=texts, pooling=pooling, colour=1)
    *each, answer = run(make_worker(), *lines, {"prompt": LONG}, together)
    expected = served.model.embed(texts, pooling=pooling)
    for line, vector in zip(each, expected, strict=False):
        (data,) = line["response"]["body"]["data"]
        assert np.array_equal(np.float32(data["embedding"]), vector)
    found = [entry["embedding"] for entry in answer["response"]["body"]["data"]]
    assert np.array_equal(np.float32(found), expected)
    assert each[3]["generated_text"]


def test_labels_are_those_of_the_library(make_worker, classifier_file):
    texts = [LONG, LONG + "so", "what"]
    lines = [request("/classify", input=text) for text in texts]
    worker = make_worker(model=classifier_file)
    answers = run(worker, *lines, request("/classify", input=texts))
    with cpumix.load(classifier_file) as model:
        expected = model.classify(texts)
    for line, one in zip(answers, expected, strict=False):
        (data,) = line["response"]["body"]["data"]
        assert data["label"] == one.label
        assert np.array_equal(np.float32(data["probs"]), one.probabilities)
    assert [data["label"] for data in answers[3]["response"]["body"]["data"]] == [
        one.label for one in expected
    ]
    assert answers[0]["response"]["body"]["created"] == 0
    again = run(make_worker(model=classifier_file, parallel=1), *lines)
    assert again == answers[:3]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (request("/v1/embeddings", input=""), "input: expected some text, found an empty one"),
        (request("/v1/embeddings", input=[]), "input: expected 1 to 2048 of them"),
        (request("/v1/embeddings", input="x", pooling="best"), "pooling: expected one of mean"),
        (request("/v1/embeddings"), "Object missing required field 'input'"),
        (request("/classify", input="x"), "model: expected a classifier"),
    ],
)
def test_faults(refused, line, told):
    answer = refused(line)
    assert told in answer["error"]["message"]
    assert answer["response"]["status_code"] == 400


def test_a_classifier_writes_nothing(make_worker, classifier_file):
    worker = make_worker(model=classifier_file)
    plain, chat = run(worker, {"prompt": "x"}, request("/v1/completions", prompt="x"))
    assert "expected a language head" in plain["error"]
    assert "expected a language head" in chat["error"]["message"]
