"""The ids of an answer and of what is in it, and its time."""

from __future__ import annotations

import secrets
import time


class Stamp:
    """Gives out ids that nobody can guess, and the second in which it was made."""

    def __init__(self) -> None:
        self.created = int(time.time())

    def identity(self, prefix: str) -> str:
        """Return another id."""
        return f"{prefix}{secrets.token_hex(12)}"
