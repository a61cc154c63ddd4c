"""Calls of functions in answers, however they are cut into pieces."""

from __future__ import annotations

import json

import pytest

from cpumix.api.stamp import Stamp
from cpumix.api.tools import FoundCalls, parse_calls

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
