"""Tools: forced calls follow the schema, stand where the template puts them, and are read back."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from chat_models import WITH_CALLS, write_chat_model

import cpumix
from cpumix.errors import ConfigError
from cpumix.sampling.tools import call_schema
from cpumix.tokenizer.tool_calls import ToolCall, parse_tool_calls

ASKED = [{"role": "user", "content": "one two three"}]
AGE = {
    "type": "object",
    "properties": {"years": {"$ref": "#/$defs/years"}, "sure": {"type": "boolean"}},
    "required": ["years", "sure"],
    "additionalProperties": False,
    "$defs": {"years": {"type": "integer", "minimum": 0, "maximum": 99}},
}


def tool(name: str, parameters: dict[str, object] | None = None) -> dict[str, object]:
    function = {"name": name} if parameters is None else {"name": name, "parameters": parameters}
    return {"type": "function", "function": function}


NOW = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = [tool("now", NOW), tool("age", AGE)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(
        tmp_path_factory.mktemp("chat"), WITH_CALLS, max_position_embeddings=2048
    )


@pytest.fixture(scope="module")
def model(path):
    with cpumix.load(path, context=1000) as model:
        yield model


@pytest.mark.parametrize("choice", ["required", "age", "now"])
def test_a_forced_call_follows_its_schema(model, choice):
    for seed in range(4):
        answer = model.chat(
            ASKED, temperature=1.5, seed=seed, max_tokens=200, tools=TOOLS, tool_choice=choice
        )
        written = json.loads("".join(answer))
        assert answer.stop_reason == "eos"
        (call,) = answer.tool_calls
        assert written == {"name": call.name, "parameters": call.arguments}
        assert choice in ("required", call.name)
        jsonschema.validate(call.arguments, AGE if call.name == "age" else NOW)


def test_a_forced_call_begins_where_the_template_puts_it(model):
    answer = model.chat(ASKED, max_tokens=100, tools=TOOLS, tool_choice="age")
    prompt = model.tokenizer.decode(answer.request.ids)
    assert prompt.endswith("[assistant]\n<call>\n")
    called = [*ASKED, {"role": "assistant", "content": "", "tool_calls": [TOOLS[1]]}]
    called[-1]["tool_calls"] = [{"function": {"name": "age", "arguments": {"years": 1}}}]
    whole = model.tokenizer.decode(model.tokenizer.encode_chat(called, False, tools=TOOLS))
    assert whole.startswith(prompt + '{"name": "age"')
    ids, key = model.tokenizer.encode_call(ASKED, TOOLS, name="age")
    assert model.tokenizer.decode(ids) == prompt + '{"name": "age", "parameters": '
    assert whole.startswith(model.tokenizer.decode(ids))
    assert key == "parameters"


def test_a_template_that_writes_no_calls_gets_one_at_once(model):
    plain = {"chat_template": "{% for m in messages %}{{ m.content }}\n{% endfor %}"}
    answer = model.chat(
        ASKED, max_tokens=100, tools=TOOLS[:1], tool_choice="required", template=plain
    )
    assert json.loads("".join(answer)) == {"name": "now", "arguments": {}}
    assert answer.tool_calls == [ToolCall("now", {})]


def test_tools_and_their_results_go_through_the_template(model):
    call = {"id": "a", "type": "function", "function": {"name": "now", "arguments": {}}}
    messages = [
        *ASKED,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "seven"},
    ]
    answer = model.chat(messages, max_tokens=2, tools=TOOLS)
    assert list(answer.request.ids) == model.tokenizer.encode_chat(messages, tools=TOOLS)
    without = model.chat(messages, max_tokens=2, tools=TOOLS, tool_choice="none", temperature=0)
    assert list(without.request.ids) == model.tokenizer.encode_chat(messages)
    assert "".join(without) == "".join(model.chat(messages, max_tokens=2, temperature=0)) != ""
    assert without.tool_calls == []


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("Nothing.", []),
        ('<tool_call>\n{"name": "age", "arguments": {"years": 3}}\n</tool_call>', [3]),
        (
            '[{"name": "age", "parameters": {"years": 1}}, {"name": "age", "arguments": {}}]',
            [1, None],
        ),
        (
            'Well: {"name": "other", "arguments": {}} {"a": {"name": "age", "arguments": {}}}',
            [None],
        ),
        ('{"name": "age", "arguments": "none"}', []),
        ('{"name": ["age"], "arguments": {}}', []),
        ('{"name": "age", "arg', []),
        ("{" * 5000, []),
    ],
)
def test_calls_are_read_back(text, calls):
    found = parse_tool_calls(text, ["age"])
    assert [call.arguments.get("years") for call in found] == calls
    assert parse_tool_calls(text, []) == []


def test_a_tool_is_chosen_as_openai_writes_it(model):
    named = {"type": "function", "function": {"name": "age"}}
    answers = [
        model.chat(ASKED, max_tokens=100, tools=TOOLS, tool_choice=choice, seed=1)
        for choice in (named, "age")
    ]
    assert "".join(answers[0]) == "".join(answers[1])
    assert [call.name for call in answers[0].tool_calls] == ["age"]


def test_references_lead_to_the_same_place():
    schema = json.loads(
        call_schema([tool(*one)["function"] for one in (["now"], ["age", AGE])], "arguments")
    )
    good = {"name": "age", "arguments": {"years": 5, "sure": True}}
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "age", "arguments": {"years": 100, "sure": True}}, schema)


@pytest.mark.parametrize(
    ("tools", "choice", "sentence"),
    [
        (TOOLS, "later", "expected a tool to call, by one of auto, none, required, now, age"),
        ([], "required", 'found "required" and 0 tools'),
        ([{"name": "age"}], "auto", "with a name of its own, found"),
        ([TOOLS[0], TOOLS[0]], "auto", "with a name of its own"),
        ([tool("now", "text")], "required", "Change that part"),
    ],
)
def test_what_is_no_tool_is_refused(model, tools, choice, sentence):
    with pytest.raises(ConfigError, match=sentence):
        model.chat(ASKED, tools=tools, tool_choice=choice)
