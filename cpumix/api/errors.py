"""What a request is refused with, in the shape that each dialect has for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cpumix.errors import ConfigError, CpumixError


class ApiError(Exception):
    """A request that is not answered: an HTTP status, and a sentence for people."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})


OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
TGI_TYPES = {422: "validation", 424: "generation", 429: "overloaded"}


def openai_error(error: ApiError) -> dict[str, Any]:
    """Return the body of an error as OpenAI writes it."""
    usual = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": error.message,
            "type": OPENAI_TYPES.get(error.status, usual),
            "param": error.param,
            "code": error.code,
        }
    }


def tgi_error(error: ApiError) -> tuple[int, dict[str, Any]]:
    """Return status and body of an error as Text Generation Inference gives them."""
    status = {400: 422, 500: 424}.get(error.status, error.status)
    message = error.message
    if status == 429:
        message = "Model is overloaded"
    elif status == 424:
        message = f"Request failed during generation: {message}"
    elif status == 422 and not message.startswith("Input validation error"):
        message = f"Input validation error: {message}"
    kind = TGI_TYPES.get(status, "unavailable" if status >= 500 else "validation")
    return status, {"error": message, "error_type": kind}


def failure(error: BaseException, alive: bool) -> ApiError:
    """Return what is answered when a text cannot go on."""
    if isinstance(error, ApiError):
        return error
    if not alive:
        return ApiError(503, "The server is shutting down.", code="unavailable")
    if isinstance(error, ConfigError):
        return ApiError(400, error.message)
    told = error.message if isinstance(error, CpumixError) else "The engine failed; see its log."
    return ApiError(500, told, code="engine_error")
