"""OpenAI's own client, unmodified, against a server."""

from __future__ import annotations

import json
import math

import openai
import pytest
from jsonschema import validate
from pydantic import BaseModel
from served_models import serve

pytestmark = pytest.mark.slow
ASK = [{"role": "user", "content": "Who returned to the city?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}


def client_of(served, **more) -> openai.OpenAI:
    options = {"api_key": "none", "max_retries": 0} | more
    return openai.OpenAI(base_url=f"{served.url}/v1", **options)


@pytest.fixture(scope="module")
def client(demo):
    with client_of(demo) as client:
        yield client


@pytest.fixture(scope="module")
def tiny_client(tiny):
    with client_of(tiny) as client:
        yield client


def complete(client, prompt="And they returned to the", **options):
    options = {"max_tokens": 12, "temperature": 0, "model": "demo"} | options
    return client.completions.create(prompt=prompt, **options)


def test_models(client, demo):
    (model,) = client.models.list()
    assert model.id == demo.service.name == "seedling-int8"
    assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError, match="expected one of /v1/models"):
        client.models.retrieve("other")


def test_completion_is_what_the_library_writes(client, demo):
    answer = complete(client, temperature=1.0, seed=7, stop=["zzz"])
    generation = demo.model.generate(
        "And they returned to the", max_tokens=12, temperature=1.0, seed=7, raw=True
    )
    assert answer.choices[0].text == "".join(generation)
    assert answer.choices[0].finish_reason == "length"
    assert answer.seed == 7
    assert answer.usage.completion_tokens == 12
    assert answer.timings["predicted_n"] == 12


def test_drawn_seed_gives_the_text_again(client):
    first = complete(client, temperature=1.0)
    again = complete(client, temperature=1.0, seed=first.seed)
    assert again.choices[0].text == first.choices[0].text


def test_stream_is_the_whole(client):
    whole = complete(client, temperature=1.0, seed=3)
    chunks = [*complete(client, temperature=1.0, seed=3, stream=True)]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len({chunk.id for chunk in chunks}) == 1


def test_several_prompts_and_choices(client):
    answer = complete(client, ["And they", "A wise man"], n=2, temperature=1.0, seed=5)
    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert texts[1] == complete(client, "And they", temperature=1.0, seed=6).choices[0].text
    assert texts[3] == complete(client, "A wise man", temperature=1.0, seed=8).choices[0].text
    alone = [complete(client, prompt).usage.prompt_tokens for prompt in ("And they", "A wise man")]
    assert answer.usage.prompt_tokens == sum(alone)


def test_choices_share_a_long_prompt(client):
    prompt = "And they returned to the city by the sea. " * 12
    answer = complete(client, prompt, n=3, max_tokens=3)
    assert len({choice.text for choice in answer.choices}) == 1


def test_tokens_as_prompt(client, demo):
    ids = demo.model.tokenizer.encode("And they returned to the")
    assert complete(client, ids).choices == complete(client).choices


def test_legacy_logprobs(client, demo):
    found = complete(client, logprobs=2).choices[0]
    assert len(found.logprobs.tokens) == 12
    assert "".join(found.logprobs.tokens) == found.text
    assert all(len(top) <= 2 for top in found.logprobs.top_logprobs)
    for place, token in zip(found.logprobs.text_offset, found.logprobs.tokens, strict=True):
        assert found.text[place:].startswith(token)
    ids = demo.model.tokenizer.encode("And they returned to the")
    logits = demo.model.logits(ids)[-1].astype(float)
    best = math.exp(found.logprobs.token_logprobs[0])
    assert best == pytest.approx(math.exp(logits.max()) / sum(map(math.exp, logits)), rel=1e-5)


def test_chat_whole_and_streamed(client, demo):
    options = {"model": "x", "messages": ASK, "max_completion_tokens": 10, "seed": 4}
    whole = client.chat.completions.create(**options)
    assert whole.choices[0].message.role == "assistant"
    assert whole.usage.prompt_tokens == len(
        demo.model.tokenizer.encode_chat(ASK, chat_template="mistral-v1")
    )
    chunks = [
        *client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    ]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
    text = "".join(c.choices[0].delta.content or "" for c in chunks[:-1])
    assert text == whole.choices[0].message.content


def test_chat_logprobs(client):
    answer = client.chat.completions.create(
        model="x", messages=ASK, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 5
    for entry in content:
        assert entry.token == entry.top_logprobs[0].token
        assert bytes(entry.bytes).decode("utf-8", "replace") == entry.token
        assert [top.logprob for top in entry.top_logprobs] == sorted(
            (top.logprob for top in entry.top_logprobs), reverse=True
        )


def test_stop_is_cut_off_wherever_tokens_end(client):
    text = complete(client, max_tokens=24).choices[0].text
    stop = text[len(text) // 2 - 2 : len(text) // 2 + 3]
    found = complete(client, max_tokens=24, stop=stop).choices[0]
    assert found.text == text[: text.index(stop)]
    assert found.finish_reason == "stop"


def test_logit_bias(client, demo):
    first = complete(client, max_tokens=1, logprobs=0)
    token = int(
        demo.model.logits(demo.model.tokenizer.encode("And they returned to the"))[-1].argmax()
    )
    other = complete(client, max_tokens=1, logprobs=0, logit_bias={str(token): -100})
    assert other.choices[0].text != first.choices[0].text
    forced = complete(client, max_tokens=2, logit_bias={"300": 100})
    assert forced.choices[0].text == demo.model.tokenizer.token_bytes[300].decode() * 2


class City(BaseModel):
    name: str
    size: int


def test_parse(client):
    answer = client.chat.completions.parse(
        model="x", messages=ASK, max_tokens=60, response_format=City, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, City)


def test_stream_helper_parses(client):
    with client.chat.completions.stream(
        model="x", messages=ASK, max_tokens=60, response_format=City, seed=1
    ) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, City)


def test_json_object(client):
    answer = client.chat.completions.create(
        model="x", messages=ASK, max_tokens=40, response_format={"type": "json_object"}, seed=1
    )
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_forced_call(client):
    options = {
        "model": "x",
        "messages": ASK,
        "max_tokens": 40,
        "tools": [WEATHER, CLOCK],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "seed": 2,
    }
    choice = client.chat.completions.create(**options).choices[0]
    (call,) = choice.message.tool_calls
    assert call.function.name == "weather"
    validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    assert choice.finish_reason == "tool_calls"
    chunks = [*client.chat.completions.create(**options, stream=True)]
    calls = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or []]
    assert "".join(c.function.arguments for c in calls) == call.function.arguments
    assert calls[0].function.name == "weather"


@pytest.mark.parametrize("seed", range(4))
def test_forced_call_of_parameters_without_a_type_is_an_object(client, seed):
    parameters = {"properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    options = {"model": "x", "messages": ASK, "max_tokens": 40, "seed": seed, "tools": tools}
    named = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat.completions.create(**options, tool_choice=named)
    (call,) = answer.choices[0].message.tool_calls
    assert isinstance(json.loads(call.function.arguments), dict)


@pytest.mark.parametrize("stream", [False, True])
def test_required_call(tiny_client, stream):
    options = {
        "model": "x",
        "messages": ASK,
        "max_tokens": 60,
        "tools": [WEATHER, CLOCK],
        "tool_choice": "required",
        "seed": 2,
    }
    if stream:
        with tiny_client.chat.completions.stream(**options) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = tiny_client.chat.completions.create(**options).choices[0]
    (call,) = choice.message.tool_calls
    assert call.function.name in ("weather", "clock")
    assert isinstance(json.loads(call.function.arguments), dict)


def test_required_call_follows_a_reference_of_its_parameters(tiny_client):
    city = {"$defs": {"city": {"enum": ["Rome", "Oslo"]}}, "type": "object"}
    city |= {"properties": {"city": {"$ref": "#/$defs/city"}}, "required": ["city"]}
    city |= {"additionalProperties": False}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": city}}]
    options = {"model": "x", "messages": ASK, "max_tokens": 60, "seed": 2}
    answer = tiny_client.chat.completions.create(**options, tools=tools, tool_choice="required")
    (call,) = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")


@pytest.mark.parametrize("parameters", ["text", [1]])
def test_required_call_of_parameters_that_are_no_schema(tiny_client, parameters):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    options = {"model": "x", "messages": ASK, "max_tokens": 5, "tools": tools}
    with pytest.raises(openai.BadRequestError):
        tiny_client.chat.completions.create(**options, tool_choice="required")


def test_automatic_choice_needs_a_template_that_knows_tools(client, tiny_client):
    options = {"model": "x", "messages": ASK, "tools": [WEATHER], "max_tokens": 5, "seed": 1}
    with pytest.raises(openai.BadRequestError, match="chat template knows no tools"):
        client.chat.completions.create(**options)
    answer = tiny_client.chat.completions.create(**options)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_earlier_calls_reach_the_template(tiny_client):
    call = {"name": "weather", "arguments": '{"city": "Rome"}'}
    said = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": call}],
    }
    result = {"role": "tool", "tool_call_id": "1", "content": "sunny"}
    tiny_client.chat.completions.create(
        model="x", messages=[*ASK, said, result], tools=[WEATHER], max_tokens=2
    )


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ({"max_tokens": 0}, 400, "max_tokens: expected 1 or more"),
        ({"n": 99}, 400, "n: expected 1 to 16"),
        ({"temperature": -1}, 400, "temperature: expected 0 or more"),
        ({"logit_bias": {"x": 1}}, 400, "expected token ids with numbers"),
        ({"logit_bias": {"1" * 5000: 1}}, 400, "expected token ids with numbers"),
        ({"logit_bias": {"999999": 1}}, 400, "logit_bias: expected tokens below 4096"),
        ({"stop": ["a"] * 17}, 400, "stop: expected at most 16"),
        ({"extra_body": {"echo": True}}, 400, "echo: expected it left out"),
        ({"extra_body": {"best_of": 3}}, 400, "best_of: expected it left out"),
        ({"logprobs": 9}, 400, "logprobs: expected 0 to 5"),
        ({"prompt": [1, 99999]}, 400, "expected token ids from 0 to 4095"),
        ({"prompt": [1, "a"]}, 400, "expected texts or lists of tokens, found a mixture"),
        ({"prompt": ["a"] * 65}, 400, "prompt: expected 1 to 64 of them"),
        ({"prompt": "word " * 600}, 400, "maximum context length is 512 tokens"),
        ({"extra_body": {"max_tokens": "x"}}, 400, "Expected 'int | null', got 'str'"),
        ({"extra_body": {"regex": "("}}, 400, "expected one that can be enforced"),
    ],
)
def test_refused_completion(client, options, status, message):
    with pytest.raises(openai.APIStatusError) as error:
        complete(client, **options)
    assert error.value.status_code == status
    assert message in error.value.message
    assert set(error.value.body) == {"message", "type", "param", "code"}


def test_too_long_has_its_code(client):
    with pytest.raises(openai.BadRequestError) as error:
        complete(client, "word " * 600)
    assert error.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra_body": {"functions": [{}]}}, "functions: expected it left out"),
        ({"modalities": ["audio"]}, "modalities: expected"),
        ({"top_logprobs": 3}, "top_logprobs: expected 0 to 20, beside logprobs"),
        ({"tools": [{"type": "other"}]}, 'tools[0]: expected {"type": "function"'),
        ({"tools": [WEATHER, WEATHER]}, "tools[1]: expected"),
        ({"tools": [{"type": "x", "function": {"name": "a"}}]}, "with a name of its own, found"),
        ({"tool_choice": "required"}, 'found "required" and 0 tools'),
        ({"tools": [WEATHER], "tool_choice": {"function": {"name": 5}}}, 'found "5" and 1 tools'),
        ({"tools": [WEATHER], "tool_choice": "other"}, "tool_choice: expected"),
        ({"response_format": {"type": "xml"}}, 'response_format: expected "text"'),
        (
            {
                "response_format": {"type": "json_object"},
                "tools": [WEATHER],
                "tool_choice": "required",
            },
            "response_format: expected it left out where tools",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"not": {}}},
                }
            },
            "expected one that can be enforced",
        ),
        ({"messages": []}, "expected at least one message"),
    ],
)
def test_refused_chat(client, options, message):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(**{"model": "x", "messages": ASK, "max_tokens": 3} | options)
    assert message in error.value.message


def test_unknown_fields_are_told_and_passed_over(client):
    answer = client.completions.with_raw_response.create(
        model="x", prompt="And", max_tokens=2, extra_body={"mirror_stage": 1}
    )
    assert answer.headers["x-cpumix-warning"] == "unknown fields passed over: mirror_stage"
    assert answer.parse().choices[0].text


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ bos_token }}nothing", "expected it to write the user message"),
        ("{{ raise_exception('no') }}", r"it rejects these messages: no\. Change the messages"),
    ],
)
def test_errors_name_no_option_of_the_command_line(tiny, template, message):
    with serve(tiny.model, chat_template=template) as served, client_of(served) as client:
        with pytest.raises(openai.BadRequestError, match=message) as refused:
            client.chat.completions.create(model="x", messages=ASK)
        assert "--raw" not in refused.value.message
