"""Where a chat keeps the lines that were typed, so that the next one has them at the Up key.

A file for each user, which nobody else can read: in it is what people say to their models.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

NO_HISTORY = "CPUMIX_NO_HISTORY"  # in the environment: keep none
MOST_BYTES = 1 << 20  # then the older half is forgotten


def history_file(name: str) -> Path | None:
    """Return a file of this user's for lines, made if need be; None where there can be none."""
    with suppress(OSError, RuntimeError):  # RuntimeError: no HOME, and the user is in no list
        path = _user_state() / "cpumix" / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with os.fdopen(os.open(path, flags, 0o600), "r+b") as file:
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), 0o600)
            if file.seek(0, os.SEEK_END) > MOST_BYTES:
                file.seek(-MOST_BYTES // 2, os.SEEK_END)
                rest = file.read()  # prompt_toolkit's entries begin behind a blank line
                rest = rest.partition(b"\n\n" if b"\n\n" in rest else b"\n")[2]
                file.seek(0)
                file.write(rest)
                file.truncate()
        return path
    return None


def _user_state() -> Path:
    if sys.platform == "win32":
        named = os.environ.get("LOCALAPPDATA")
        return Path(named) if named else Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    named = os.environ.get("XDG_STATE_HOME")
    return Path(named) if named else Path.home() / ".local" / "state"
