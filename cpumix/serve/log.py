"""The log on stderr: a line for each request, without prompts, keys or addresses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import structlog

Log = Callable[..., Any]
"""Takes what has happened, and its values by name."""


def create_log(form: str) -> Log:
    """Return what writes lines of "text" or "json"; it is not structlog's global one."""
    last: Any = structlog.processors.JSONRenderer()
    if form == "text":
        last = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    logger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[structlog.processors.TimeStamper("iso", utc=True, key="time"), last],
    )
    log: Log = logger.info
    return log
