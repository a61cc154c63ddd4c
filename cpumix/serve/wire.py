"""Bodies of requests: JSON to structs, with what was not understood by name."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import anyio
import msgspec
from starlette.requests import ClientDisconnect, Request

from cpumix.errors import escaped

from .errors import ApiError
from .leaving import ClientLeft

BODY_SECONDS = 30.0  # that a body may take to arrive
MAX_BODY = 8 << 20  # bytes; a context of 128k tokens in JSON escapes is less
T = TypeVar("T", bound=msgspec.Struct)


async def read_body(request: Request, most: int = MAX_BODY) -> bytes:
    """Return the body of a request. Raises ApiError (413, 408) if it is too long, or too slow."""
    found = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for piece in request.stream():
                found += piece
                if len(found) > most:
                    raise ApiError(413, f"body: expected at most {most} bytes, found more.")
    except TimeoutError as late:
        raise ApiError(408, f"body: expected all of it within {BODY_SECONDS:g} s.") from late
    except ClientDisconnect as left:
        raise ClientLeft from left
    return bytes(found)


def decode(body: bytes, kind: type[T]) -> tuple[T, list[str]]:
    """Return a body as a struct, and the names in it that the struct does not have.

    Raises ApiError (400) that names the field which is not what it should be.
    """
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ApiError(400, f"body: expected JSON, found other text ({error}).") from error
    if not isinstance(raw, dict):
        raise ApiError(400, f"body: expected a JSON object, found {type(raw).__name__}.")
    try:
        value = msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        place = re.search(r"`\$\.?([^`]*)`$", str(error))
        param = place[1] if place else None
        raise ApiError(400, f"body: {error}.".replace("`", "'"), param=param) from error
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    return value, [escaped(name, 40) for name in raw if name not in known]


def warnings(unknown: list[str]) -> dict[str, str]:
    """Return the header that tells which fields were passed over."""
    if not unknown:
        return {}
    names = ", ".join(name.encode("ascii", "replace").decode() for name in unknown[:20])
    return {"x-cpumix-warning": f"unknown fields passed over: {names}"}


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
