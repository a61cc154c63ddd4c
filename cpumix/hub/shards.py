"""Shards of a repository that are here only while they are needed.

What is in them is read from their heads; so a conversion is planned before any is downloaded. Most
containers have all of it in one place, but files of PyTorch and npz say at each tensor where its
numbers begin: one that takes more than `_MOST_READS` is downloaded. A tensor of a shard that is not
here is read from the hub itself if it is small, such as the zeros and biases that are looked at
beforehand; anything else downloads its shard.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from cpumix.checkpoint.containers import CONTAINERS
from cpumix.checkpoint.files import read_into
from cpumix.checkpoint.head import Head
from cpumix.checkpoint.random_access import FileBytes
from cpumix.errors import ConvertError, quoted

from .download import earlier_download, fetch_all, place_of
from .files import HubFile, HubName, choose_files
from .repository import Repository, Unreachable, connect

_SMALL = 1 << 20  # bytes
_HEADS = 8  # that are asked for at a time: one takes little but the time to the hub and back
_MOST_READS = 500  # from the hub for one head; a shard of Mixtral 8x7B's has 53 tensors


class HubShards:
    """The shards of one checkpoint on the hub; `close` ends what is still being downloaded."""

    def __init__(self, repository: Repository, folder: Path, shards: Iterable[HubFile]) -> None:
        self._repository = repository
        self._files = {folder / shard.name: shard for shard in shards}
        self.sizes = {path: file.nbytes for path, file in self._files.items()}
        """Bytes of each shard."""
        self._locks = {path: threading.Lock() for path in self._files}
        self._closed = threading.Event()
        self._ahead = ThreadPoolExecutor(1, "cpumix-fetch")
        with ThreadPoolExecutor(_HEADS, "cpumix-fetch") as readers:
            heads = list(readers.map(self._read_head, self._files))
        self.heads = dict(zip(self._files, heads, strict=True))
        """What each shard's head says."""

    @property
    def identity(self) -> list[tuple[str, int, str]]:
        """What changes if a shard does."""
        commit = self._repository.commit
        return [(file.name, file.nbytes, file.blob or commit) for file in self._files.values()]

    def fetch(self, path: Path) -> None:
        """Have a shard here. Raises ConvertError if the hub refuses, or if this was closed."""
        with self._locks[path]:
            if path.exists():
                return
            found = self._repository.fetch_one(self._files[path].name, self._bar())
            if not path.exists():
                raise ConvertError(
                    f'hub: expected the shard in "{path.parent}", found it at "{found}". '
                    "Run the same command again: the repository has changed."
                )

    def fetch_ahead(self, path: Path) -> None:
        """Begin to fetch a shard; what goes wrong is said when it is needed."""
        self._ahead.submit(self.fetch, path)

    def close(self) -> None:
        """End a download that is going on."""
        self._closed.set()
        self._ahead.shutdown(wait=True, cancel_futures=True)

    def _read_into(self, path: Path, offset: int, out: memoryview) -> None:
        """Fill `out` from a shard that may not be here."""
        if len(out) > _SMALL:
            self.fetch(path)
        self._fill(path, offset, out)

    def _fill(self, path: Path, offset: int, out: memoryview) -> None:
        """Fill `out` from a shard if it is here, or else from the hub."""
        with suppress(ConvertError):  # it may have gone meanwhile
            if path.exists():
                return read_into(path, offset, out)
        name = self._files[path].name
        found = self._repository.read_range(name, offset, len(out))
        if len(found) < len(out):
            raise ConvertError(
                f"hub: expected {len(out)} bytes of {quoted(name)} at byte {offset}, found "
                f"{len(found)}. Run the same command again."
            )
        out[:] = found

    def _read_head(self, path: Path) -> Head:
        reads = count()

        def fill(path: Path, offset: int, out: memoryview) -> None:
            if next(reads) >= _MOST_READS:
                self.fetch(path)
            self._fill(path, offset, out)

        head = CONTAINERS[path.suffix](FileBytes(path, self.sizes[path], fill))
        tensors = {
            name: replace(part, read_into=self._read_into) for name, part in head.tensors.items()
        }
        return head._replace(tensors=tensors)

    def _bar(self) -> Any:
        """Return a bar that shows nothing, since the conversion has one, and ends when closed."""
        from huggingface_hub.utils import tqdm

        closed = self._closed

        class Bar(tqdm):  # type: ignore[misc]
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **{**options, "disable": True})

            def update(self, n: float | None = 1) -> None:
                if closed.is_set():
                    raise ConvertError("hub: the download was ended.")

        return Bar


def open_shards(name: HubName) -> tuple[Path, HubShards | None]:
    """Return where a checkpoint is, and its shards, of which only the files beside them are here.

    There are none if the hub cannot be reached, or has all in one file, which cannot be deleted
    piece by piece: what `download` returns is here then. Raises ConvertError.
    """
    try:
        repository = connect(name)
    except Unreachable as error:
        return earlier_download(name, error), None
    chosen = choose_files(repository.files, name.file, name.repo)
    shards = [file for file in repository.files if file.name in chosen and _is_shard(file.name)]
    if len(shards) < 2:
        return fetch_all(repository, chosen), None
    folder = repository.fetch([file for file in chosen if not _is_shard(file)])
    return place_of(folder, chosen), HubShards(repository, folder, sorted(shards))


def _is_shard(name: str) -> bool:
    return Path(name).suffix in CONTAINERS
