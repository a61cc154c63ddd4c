"""Which tools an answer may call, and what a call that it has to make is as a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cpumix.errors import ConfigError, escaped, quoted

CHOICES = ("auto", "none", "required")


@dataclass(frozen=True)
class ToolChoice:
    """The functions that an answer may call, by name, and the ones of which it has to call one."""

    functions: Mapping[str, Mapping[str, Any]]
    forced: tuple[str, ...] = ()
    named: bool = False
    """Whether the one that has to be called was named."""


def read_tools(
    tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any] | None
) -> ToolChoice:
    """Return what may be called.

    `choice` is one of CHOICES, or else a tool: by its name, or as OpenAI writes it,
    {"type": "function", "function": {"name": ...}}. None is "auto". Raises ConfigError for what is
    no tool, a name twice, a choice that is none, and if there is no tool that could be called.
    """
    functions: dict[str, Mapping[str, Any]] = {}
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        kind = tool.get("type", "function") if isinstance(tool, Mapping) else None
        if not isinstance(name, str) or not name or name in functions or kind != "function":
            raise ConfigError(
                f'tools[{number}]: expected {{"type": "function", "function": {{"name": ...}}}} '
                f"with a name of its own, found {escaped(repr(tool))}. Correct the tool."
            )
        assert isinstance(function, Mapping)
        functions[name] = function
    if choice in (None, "auto"):
        return ToolChoice(functions)
    if choice == "none":
        return ToolChoice({})
    if choice == "required" and functions:
        return ToolChoice(functions, tuple(functions))
    inner = choice.get("function") if isinstance(choice, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else choice
    if isinstance(name, str) and name in functions:
        return ToolChoice(functions, (name,), named=True)
    known = ", ".join([*CHOICES, *functions])
    raise ConfigError(
        f"tool_choice: expected a tool to call, by one of {escaped(known)}, "
        f"found {quoted(name)} and {len(tools)} tools. Name one of the tools."
    )


def arguments_schema(function: Mapping[str, Any]) -> Any:
    """Return the schema of what a function takes: of an object, whatever its own leaves out."""
    given = function.get("parameters") or {}
    # What is no schema is refused where an answer is to follow it.
    return {"type": "object", **given} if isinstance(given, Mapping) else given


def call_schema(functions: Iterable[Mapping[str, Any]], arguments: str) -> str:
    """Return the schema of a call of one of some; `arguments` is the name of its arguments."""
    return json.dumps({"anyOf": [_call(one, arguments, i) for i, one in enumerate(functions)]})


def _call(function: Mapping[str, Any], arguments: str, place: int) -> dict[str, Any]:
    moved = _moved(arguments_schema(function), f"#/anyOf/{place}/properties/{arguments}")
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, arguments: moved},
        "required": ["name", arguments],
        "additionalProperties": False,
    }


def _moved(schema: Any, root: str) -> Any:
    """Return a schema whose references are right when it stands at `root` of another."""
    if isinstance(schema, Mapping):
        moved = {key: _moved(value, root) for key, value in schema.items()}
        reference = moved.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            moved["$ref"] = root + reference[1:]
        return moved
    return [_moved(item, root) for item in schema] if isinstance(schema, list) else schema
