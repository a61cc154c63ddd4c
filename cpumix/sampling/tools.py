"""What a forced call of a tool has to be, as a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cpumix.errors import ConfigError, escaped, quoted

CHOICES = ("auto", "none", "required")


def tool_names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of tools. Raises ConfigError for what is no tool, and for a name twice."""
    names = []
    for tool in tools:
        function = tool.get("function") if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name or name in names:
            raise ConfigError(
                'tools: expected {"type": "function", "function": {"name": ...}} with a name of '
                f"its own, found {escaped(repr(tool))}. Correct the tool."
            )
        names.append(name)
    return names


def forced_tools(
    tools: Sequence[Mapping[str, Any]], choice: str
) -> Sequence[Mapping[str, Any]] | None:
    """Return the tools of which one has to be called, None if none has to be.

    `choice` is one of CHOICES or a tool's name. Raises ConfigError for any other, and if there is
    no tool that could be called.
    """
    names = tool_names(tools)
    if choice in names:
        return [tools[names.index(choice)]]
    if choice not in CHOICES or (choice == "required" and not tools):
        known = ", ".join([*CHOICES, *names])
        raise ConfigError(
            f"tool_choice: expected a tool to call, by one of {escaped(known)}, "
            f"found {quoted(choice)} and {len(tools)} tools. Name one of the tools."
        )
    return tools if choice == "required" else None


def call_schema(tools: Sequence[Mapping[str, Any]], arguments: str) -> str:
    """Return the schema of a call of one of the tools; `arguments` is the name of its arguments."""
    return json.dumps({"anyOf": [_call(tool, arguments, i) for i, tool in enumerate(tools)]})


def _call(tool: Mapping[str, Any], arguments: str, place: int) -> dict[str, Any]:
    function = tool["function"]
    given = function.get("parameters") or {}
    if isinstance(given, Mapping):  # what is none is refused with the schema
        given = {"type": "object", **given}
    moved = _moved(given, f"#/anyOf/{place}/properties/{arguments}")
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
