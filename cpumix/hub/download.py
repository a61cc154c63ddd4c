"""Downloads a checkpoint whole, and no file that is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cpumix.errors import ConvertError, quoted

from .files import HubName, choose_files
from .repository import Repository, Unreachable, connect, find_cached


def download(name: HubName) -> Path:
    """Download what is needed of a checkpoint; return its folder, or its GGUF file.

    Without a connection, what was downloaded before is used. Raises ConvertError.
    """
    try:
        repository = connect(name)
    except Unreachable as error:
        return earlier_download(name, error)
    return fetch_all(repository, choose_files(repository.files, name.file, name.repo))


def fetch_all(repository: Repository, chosen: Sequence[str]) -> Path:
    """Download the files that `choose_files` gave; return where the checkpoint is."""
    return place_of(repository.fetch(chosen), chosen)


def place_of(folder: Path, chosen: Sequence[str]) -> Path:
    """Return where the files that `choose_files` gave are a checkpoint: the folder, or a GGUF file.

    Of a split one that is the first part.
    """
    return folder / chosen[0] if chosen[0].endswith(".gguf") else folder


def earlier_download(name: HubName, error: Unreachable) -> Path:
    """Return what an earlier download left. Raises ConvertError if that is nothing."""
    for file in (name.file, "config.json", "params.json"):
        found = find_cached(name, file) if file else None
        if found is not None:
            return found if file == name.file else found.parent
    raise ConvertError(
        f"hub: cannot be reached for {quoted(name.repo)}: {quoted(error.__cause__)}, and nothing "
        "of it is in the cache. Check the connection."
    ) from error
