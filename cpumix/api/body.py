"""Bodies of requests: JSON to structs, with what was not understood by name."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from cpumix.errors import escaped

from .errors import ApiError

MAX_BODY = 8 << 20  # bytes; a context of 128k tokens in JSON escapes is less
T = TypeVar("T", bound=msgspec.Struct)


def decode(body: bytes, kind: type[T]) -> tuple[T, list[str]]:
    """Return a body as a struct, and the names in it that the struct does not have.

    Raises ApiError (400) that names the field which is not what it should be.
    """
    return to_struct(parse_object(body, "body"), kind)


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """Return a JSON object. Raises ApiError (400), which calls it `name`."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ApiError(400, f"{name}: expected JSON, found other text ({error}).") from error
    if not isinstance(raw, dict):
        raise ApiError(400, f"{name}: expected a JSON object, found {type(raw).__name__}.")
    return raw


def to_struct(raw: dict[str, Any], kind: type[T]) -> tuple[T, list[str]]:
    """Return an object as a struct, and the names in it that the struct does not have.

    Raises ApiError (400) that names the field which is not what it should be.
    """
    try:
        value = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        place = re.search(r"`\$\.?([^`]*)`$", str(error))
        param = place[1] if place else None
        raise ApiError(400, f"body: {error}.".replace("`", "'"), param=param) from error
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    return value, [escaped(name, 40) for name in raw if name not in known]


def refuse(values: dict[str, Any]) -> None:
    """Raise ApiError (400) for the first known but unsupported field that is set."""
    for name, value in values.items():
        if value not in (None, False, [], {}):
            raise ApiError(
                400,
                f"{name}: expected it left out, as this server does not support it.",
                param=name,
                code="unsupported_parameter",
            )
