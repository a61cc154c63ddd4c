"""Random JSON schemas, of all the kinds that people write."""

from __future__ import annotations

import random
from typing import Any

NAMES = ["name", "age", "tags", "id", "größe", 'a "quoted" key', "x", "is_ok", "next"]
WORDS = ["red", "green", "", "naïve", "a\nb", '"', "🌍", "North America", "0"]


NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "string"},
        "left": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
        "right": {"$ref": "#/$defs/node"},
    },
    "required": ["value", "left"],
    "additionalProperties": False,
}


def make_schema(draw: random.Random) -> dict[str, Any]:
    """Return a schema that has at least one value, and that llguidance can enforce."""
    return {**make(draw, 3), "$defs": {"node": NODE}}


def make(draw: random.Random, depth: int) -> dict[str, Any]:
    """Return a schema of any kind, with others in it down to `depth`."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "union"]
    if depth:
        kinds += ["object"] * 6 + ["array"] * 3 + ["tree", "any"]
    return MAKERS[draw.choice(kinds)](draw, depth)


def make_string(draw: random.Random, depth: int) -> dict[str, Any]:
    low = draw.randrange(8)
    return draw.choice(
        [
            {"type": "string"},
            {"type": "string", "minLength": low},
            {"type": "string", "minLength": low, "maxLength": low + draw.randrange(5)},
            {"type": "string", "pattern": draw.choice(["^[a-z]{2,5}$", "^[A-Z][0-9]+$", "^x+y$"])},
            {"type": "string", "format": draw.choice(["date", "uuid", "email", "date-time"])},
        ]
    )


def make_integer(draw: random.Random, depth: int) -> dict[str, Any]:
    low = draw.randrange(-200, 200)
    return draw.choice(
        [
            {"type": "integer"},
            {"type": "integer", "minimum": low},
            {"type": "integer", "minimum": low, "maximum": low + draw.randrange(60)},
            {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + 2},
        ]
    )


def make_number(draw: random.Random, depth: int) -> dict[str, Any]:
    low = round(draw.uniform(-9, 9), 2)
    return draw.choice([{"type": "number"}, {"type": "number", "minimum": low, "maximum": low + 1}])


def make_object(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(NAMES, draw.randrange(5))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: make(draw, depth - 1) for name in names},
        "required": [name for name in names if draw.random() < 0.6],
    }
    if draw.random() < 0.6:
        schema["additionalProperties"] = draw.choice([False, False, {"type": "integer"}])
    return schema


def make_array(draw: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": make(draw, depth - 1)}
    if draw.random() < 0.5:
        schema["minItems"] = draw.randrange(4)
        schema["maxItems"] = schema["minItems"] + draw.randrange(3)
    return schema


MAKERS = {
    "string": make_string,
    "integer": make_integer,
    "number": make_number,
    "object": make_object,
    "array": make_array,
    "tree": lambda draw, depth: {"$ref": "#/$defs/node"},
    "boolean": lambda draw, depth: {"type": "boolean"},
    "null": lambda draw, depth: {"type": "null"},
    "any": lambda draw, depth: {},
    "enum": lambda draw, depth: {"enum": draw.sample([*WORDS, 1, None, 2.5], 3)},
    "const": lambda draw, depth: {"const": draw.choice([*WORDS, {"a": [1, True]}])},
    "union": lambda draw, depth: {"anyOf": [make(draw, 0) for _ in range(draw.randrange(1, 3))]},
}
