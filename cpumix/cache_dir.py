"""Where cpumix keeps what it can make again: compiled kernels, measured bandwidths."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

CACHE_VARIABLE = "CPUMIX_CACHE_DIR"


def cache_roots() -> list[Path]:
    """Return the folders that may hold the cache, the preferred one first."""
    if named := os.environ.get(CACHE_VARIABLE):
        return [Path(named)]
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return [base / "cpumix", Path(tempfile.gettempdir()) / f"cpumix-{user}"]


def is_trusted(folder: Path) -> bool:
    """Whether only this user and the administrator can have put something there.

    Numba runs the code that it finds in its cache, and anyone can make a folder in /tmp.
    """
    return not hasattr(os, "getuid") or folder.stat().st_uid in (os.getuid(), 0)
