"""Lines of batches: what each may ask for, and what is said of those that are at fault."""

from __future__ import annotations

import json

import pytest

from cpumix.api.body import MAX_BODY
from cpumix.batch.line import Line
from cpumix.batch.settings import Settings
from cpumix.batch.worker import Part
from cpumix.errors import FormatError

CHAT = {"messages": [{"role": "user", "content": "Hello"}]}


def request(body, url="/v1/chat/completions", **more):
    return {"custom_id": "a", "method": "POST", "url": url, "body": body, **more}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"nonsense", "line: expected JSON, found other text"),
        (b"\xff\xfe", "line: expected JSON, found other text"),
        (b"[1]", "line: expected a JSON object, found list"),
        (None, "line: expected at most 8.0 MiB, found more"),
        ({"text": "x"}, "line: expected a url with a body, or a prompt, found neither"),
        (request(CHAT, url="/v1/images"), 'found "/v1/images"'),
        (request(CHAT, url=["x"]), "url: expected one of /v1/chat/completions"),
        (request(CHAT, method="GET"), 'method: expected POST, found "GET"'),
        (request("x"), "body: expected a JSON object, found something else"),
        (request(CHAT, custom_id=3), "custom_id: expected a text, found something else"),
        (request(CHAT | {"stream": True}), "stream: expected it left out, as a line is answered"),
        (request(CHAT | {"temperature": "hot"}), "body: Expected 'float | null'"),
        (request(CHAT | {"temperature": -1}), "temperature: expected 0 or more"),
        (request({"messages": []}), "chat: expected at least one message"),
        (request({"prompt": "x" * 2000}, url="/v1/completions"), "maximum context length is 512"),
    ],
)
def test_fault_of_a_request(refused, line, told):
    answer = refused(line)
    assert told in answer["error"]["message"]
    if isinstance(line, dict) and "url" in line:
        assert answer["custom_id"] == line["custom_id"]
        assert answer["response"]["status_code"] in (400, 404)
        assert answer["response"]["body"]["error"]["message"] == answer["error"]["message"]
    else:
        assert answer["response"] is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"prompt": 3}, "prompt: expected a text, found something else"),
        ({"prompt": " \n"}, "prompt: expected some text, found white space"),
        ({"messages": "x"}, "body: Expected 'object'"),
        ({"prompt": "x", "seed": "y"}, "body: Expected 'int | null'"),
        ({"prompt": "x", "top_p": 7}, "top_p: expected"),
    ],
)
def test_fault_of_a_plain_line(refused, line, told):
    answer = refused(line | {"row": 7})
    assert told in answer["error"]
    assert (answer["row"], answer["generated_text"]) == (7, None)


def test_line_of_the_longest_length(served, settings):
    line = json.dumps({"prompt": "x", "other": "y" * 100}).encode()
    assert len(line) < MAX_BODY
    assert Line(0, line, served, settings).pieces


def run(worker, *lines):
    data = worker.run(Part(0, 0, [json.dumps(line).encode() for line in lines])).data
    return [json.loads(line) for line in data.splitlines()]


def test_answers_as_openai_writes_them(make_worker):
    chat, completion = run(
        make_worker(),
        request(CHAT | {"n": 2}),
        request({"prompt": ["Hello", "you"], "max_tokens": 2}, url="/v1/completions"),
    )
    assert chat["custom_id"] == "a"
    assert chat["error"] is None
    assert chat["response"]["status_code"] == 200
    body = chat["response"]["body"]
    assert body["object"] == "chat.completion"
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["usage"]["completion_tokens"] <= 8
    assert len(completion["response"]["body"]["choices"]) == 2
    assert len({chat["id"], completion["id"], body["id"], chat["response"]["request_id"]}) == 4


def test_answers_say_nothing_that_changes(make_worker):
    lines = [request(CHAT), {"prompt": "Hello"}, request(CHAT, custom_id="b")]
    first, again = (run(make_worker(), *lines) for _ in range(2))
    assert first == again
    body = first[0]["response"]["body"]
    assert body["created"] == 0
    assert "timings" not in body
    assert body["usage"].keys() == {"prompt_tokens", "completion_tokens", "total_tokens"}


def test_each_line_has_a_seed_of_its_own(make_worker):
    lines = [request(CHAT, custom_id=name) for name in "ab"] + [request(CHAT | {"seed": 5})]
    seeds = [a["response"]["body"]["seed"] for a in run(make_worker(), *lines)]
    moved = [a["response"]["body"]["seed"] for a in run(make_worker(), *reversed(lines))]
    other = [a["response"]["body"]["seed"] for a in run(make_worker(seed=1), *lines)]
    assert seeds[2] == other[2] == 5
    assert moved == seeds[::-1]  # by the id, wherever the line is
    assert len({*seeds, *other}) == 5


def test_plain_prompts_are_those_of_the_library(make_worker, served):
    worker = make_worker(system="Be kind.", max_tokens=None)
    (answer,) = run(worker, {"prompt": "Hello", "max_tokens": 6, "seed": 3, "row": 1})
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    alone = served.model.chat(messages, max_tokens=6, seed=3)
    assert answer["generated_text"] == "".join(alone)
    assert answer["completion_tokens"] == len(alone.token_ids)
    assert answer["prompt_tokens"] == alone.stats.prompt_tokens
    assert (answer["row"], answer["error"]) == (1, None)


def test_raw_prompts_are_continued(make_worker, served):
    (answer,) = run(make_worker(raw=True), {"prompt": "Hello", "seed": 3})
    assert answer["generated_text"] == "".join(
        served.model.generate("Hello", raw=True, max_tokens=4, seed=3)
    )


def test_answers_of_an_earlier_batch_are_replaced(make_worker):
    first = run(make_worker(), {"prompt": "Hello", "seed": 1})
    assert run(make_worker(), *first) == first


def test_settings_hold_where_a_line_says_nothing(make_worker):
    worker = make_worker(sampling={"temperature": 0.0, "stop": ("zzz",)}, max_tokens=3)
    told, own = run(worker, {"prompt": "Hello"}, {"prompt": "Hello", "max_tokens": 1})
    assert (told["completion_tokens"], own["completion_tokens"]) == (3, 1)
    assert told["generated_text"].startswith(own["generated_text"])


def test_json_schema_holds_for_all_lines(make_worker):
    schema = '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}'
    worker = make_worker(sampling={"json_schema": schema}, max_tokens=40)
    for answer in run(worker, {"prompt": "Hello"}, {"prompt": "you"}):
        assert isinstance(json.loads(answer["generated_text"])["a"], bool)


def test_unknown_fields_are_told(make_worker):
    line = json.dumps(request(CHAT | {"temprature": 1, "max_tokens": 1})).encode()
    assert make_worker().run(Part(0, 0, [line])).passed_over == {"temprature"}


@pytest.mark.parametrize("error", [FormatError("broken"), OSError(5, "I/O error"), MemoryError()])
def test_what_is_not_a_lines_fault_ends_the_batch(served, settings, error):
    line = Line(0, b'{"prompt": "Hello"}', served, settings)
    with pytest.raises(type(error)):
        line.answer([error])


def test_what_goes_wrong_in_one_text_is_told_in_its_answer(served, settings):
    line = Line(0, b'{"prompt": "Hello"}', served, settings)
    assert line.answer([ZeroDivisionError()])["error"].startswith("The engine failed")


def test_seeds_fit_into_javascript():
    assert 0 <= Settings(1, "f16").seed_of("x") < 2**53
