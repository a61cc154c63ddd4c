"""Calls of functions in answers, however they are cut into pieces."""

from __future__ import annotations

import json

import msgspec
import pytest
from chat_models import WITH_CALLS

import cpumix
from cpumix.api.chat import Chat, ChatRequest
from cpumix.api.choice import Choice
from cpumix.api.served_model import ServedModel
from cpumix.api.stamp import Stamp
from cpumix.api.tools import FoundCalls, parse_calls
from cpumix.tokenizer import Tokenizer

NAMES = ["weather", "clock"]
CALL = {"name": "weather", "arguments": {"city": "Rome"}}
CALLS = [
    json.dumps(CALL),
    json.dumps([CALL, {"name": "clock", "parameters": {}}]),
    f"[TOOL_CALLS] [{json.dumps(CALL)}]",
    f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>\n<tool_call>{json.dumps(CALL)}</tool_call>",
]
TEXTS = ["Sunny, I think.", "{not json", '{"name": "other"}', "a < b <tool", "[1, 2]", ""]


@pytest.mark.parametrize("text", CALLS)
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("before", ["", "Let me see. "])
def test_calls_are_found(text, size, before):
    if before and not text.startswith(("<", "[T")):
        pytest.skip("after words only marked calls are known")
    answer, deltas = FoundCalls(NAMES, Stamp()), []
    whole = before + text
    for start in range(0, len(whole), size):
        deltas += answer.put(whole[start : start + size])
    deltas += answer.finish()
    assert "".join(delta.get("content", "") for delta in deltas) == before
    told = [call["function"] for delta in deltas for call in delta.get("tool_calls", [])]
    assert told == [call["function"] for call in answer.message["tool_calls"]]
    assert told[0]["name"] == "weather"
    assert json.loads(told[0]["arguments"]) == {"city": "Rome"}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 4])
def test_other_text_stays_text(text, size):
    answer, deltas = FoundCalls(NAMES, Stamp()), []
    for start in range(0, len(text), size):
        deltas += answer.put(text[start : start + size])
    deltas += answer.finish()
    assert "".join(delta["content"] for delta in deltas) == text == answer.message["content"]
    assert "tool_calls" not in answer.message


def test_arguments_that_are_text_stay_as_they_are():
    call = json.dumps({"name": "clock", "arguments": "{}"})
    assert parse_calls(call, NAMES) == [("clock", "{}")]


TOOLS = [{"type": "function", "function": {"name": name}} for name in NAMES]


@pytest.fixture(scope="module")
def served():
    with cpumix.load(context=512, threads=1) as model:
        yield ServedModel(model, chat_template=WITH_CALLS)


def ask(served: ServedModel, **fields: object) -> Chat:
    asked = {"messages": [{"role": "user", "content": "one"}], "tools": TOOLS, **fields}
    return Chat(served, msgspec.convert(asked, ChatRequest))


def test_a_call_that_has_to_come_is_written_as_the_template_has_it(served):
    def prompt(**fields: object) -> str:
        (request,) = ask(served, **fields).requests
        return served.model.tokenizer.decode(request.ids)

    assert prompt().endswith("[assistant]\n")
    assert prompt(tool_choice="required").endswith("[assistant]\n<call>\n")
    named = {"type": "function", "function": {"name": "clock"}}
    began = '[assistant]\n<call>\n{"name": "clock", "parameters": '
    assert prompt(tool_choice=named).endswith(began)
    (request,) = ask(served, tool_choice="required").requests
    schema = json.loads(request.sampler.params.json_schema)
    assert [one["required"] for one in schema["anyOf"]] == [["name", "parameters"]] * 2


def test_a_conversation_with_tools_is_encoded_once(served, monkeypatch):
    encoded = []

    def encode_chat(self, messages, *more, **options):
        encoded.append(options)
        return real(self, messages, *more, **options)

    real = Tokenizer.encode_chat
    monkeypatch.setattr(Tokenizer, "encode_chat", encode_chat)
    ask(served)
    assert [options["tools"] for options in encoded] == [TOOLS]


def test_no_more_than_one_call_without_parallel_ones(served):
    calls = json.dumps([CALL, {"name": "clock", "arguments": {}}])
    for parallel, names in ((None, NAMES), (True, NAMES), (False, NAMES[:1])):
        asked = ask(served, parallel_tool_calls=parallel)
        (choice,) = asked.whole([Choice(asked.requests[0], calls, finish="eos")])["choices"]
        called = choice["message"]["tool_calls"]
        assert [call["function"]["name"] for call in called] == names
        assert choice["finish_reason"] == "tool_calls"
