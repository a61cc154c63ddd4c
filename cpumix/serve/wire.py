"""Bodies of requests as they arrive, and what is told of fields that were passed over."""

from __future__ import annotations

import anyio
from starlette.requests import ClientDisconnect, Request

from cpumix.api.body import MAX_BODY
from cpumix.api.errors import ApiError

from .leaving import ClientLeft

BODY_SECONDS = 30.0  # that a body may take to arrive


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


def warnings(unknown: list[str]) -> dict[str, str]:
    """Return the header that tells which fields were passed over."""
    if not unknown:
        return {}
    names = ", ".join(name.encode("ascii", "replace").decode() for name in unknown[:20])
    return {"x-cpumix-warning": f"unknown fields passed over: {names}"}
