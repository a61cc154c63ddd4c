"""Where cpumix keeps what it can make again: compiled kernels, converted models, bandwidths.

Numba runs the code that it finds in its cache, and anyone can make a folder in /tmp. So only
folders are used that are this user's and closed to all others; links are not followed.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from .errors import ConvertError

CACHE_VARIABLE = "CPUMIX_CACHE_DIR"
_MODELS = "models"


def cache_roots() -> list[Path]:
    """Return the folders that may hold the cache, the preferred one first."""
    if named := os.environ.get(CACHE_VARIABLE):
        return [Path(named)]
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    second = Path(tempfile.gettempdir()) / f"cpumix-{user}"
    try:
        return [_user_cache() / "cpumix", second]
    except RuntimeError:  # no HOME, and the user is in no list
        return [second]


def _user_cache() -> Path:
    if sys.platform == "win32":
        named = os.environ.get("LOCALAPPDATA")
        return Path(named) if named else Path.home() / "AppData" / "Local"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = os.environ.get("XDG_CACHE_HOME")
    return Path(named) if named else Path.home() / ".cache"


def cache_folder(root: Path, name: str = "") -> Path | None:
    """Return the folder `name` in a root, made if need be; None if it is not fit for use."""
    folder = root / name
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        for place in dict.fromkeys((root, folder)):
            place.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    if CACHE_VARIABLE not in os.environ:
        _close_to_others(root)
    return None if fault(root) or fault(folder) else folder


def models_folder() -> Path:
    """Return the folder for model files, of this user only. Raises ConvertError without one."""
    for root in cache_roots():
        if folder := cache_folder(root, _MODELS):
            return folder
    raise ConvertError(
        "cache folder: expected one that only this user can write, found none. "
        "Convert the checkpoint to a file of your own with `cpumix convert`."
    )


def fault(folder: Path) -> str | None:
    """Say why a folder is not fit for a cache; None if it is."""
    try:
        found = folder.lstat()
    except OSError:
        return "cannot be made"
    if not stat.S_ISDIR(found.st_mode):
        return "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        return "belongs to another user"
    if hasattr(os, "getuid") and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by other users"
    return None if os.access(folder, os.W_OK) else "cannot be written"


def _close_to_others(root: Path) -> None:
    """Take away from others the right to write, which a folder of ours may have by its umask."""
    if hasattr(os, "getuid") and not root.is_symlink() and root.stat().st_uid == os.getuid():
        root.chmod(stat.S_IMODE(root.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
