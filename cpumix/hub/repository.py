"""One repository at one commit, and every sentence about a hub that refuses.

The files go to the hub's own cache, which other programs share, and a broken download goes on where
it was. HF_ENDPOINT, HF_HUB_CACHE, HF_TOKEN and HF_HUB_OFFLINE mean what they always do.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpumix.errors import ConvertError, quoted

from .files import HubFile, HubName

_TRIES = 4  # of a request whose connection breaks, after 0, 1 and 2 seconds


@dataclass(frozen=True)
class Repository:
    """What a repository holds, and ways to have it here."""

    name: HubName
    commit: str
    files: list[HubFile]

    def fetch(self, names: Sequence[str]) -> Path:
        """Download some files, those that are not in the cache; return the folder they are in."""
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.file_download import repo_folder_name

        if not names:  # of which the hub's package would say that it finds none
            cache = Path(_cache() or constants.HF_HUB_CACHE).expanduser().resolve()
            own = repo_folder_name(repo_id=self.name.repo, repo_type="model")
            place = Path(cache, own, "snapshots", self.commit)
            place.mkdir(parents=True, exist_ok=True)
            return place
        with _explained(self.name):
            folder = snapshot_download(
                self.name.repo,
                revision=self.name.revision,
                allow_patterns=[glob.escape(name) for name in names],
                endpoint=_endpoint(),
                cache_dir=_cache(),
                library_name="cpumix",
            )
        return Path(str(folder))

    def fetch_one(self, name: str, bar: Any) -> Path:
        """Download one file; `bar` is a class of progress bars. Return where it is."""
        from huggingface_hub import hf_hub_download

        with _explained(self.name):
            found = hf_hub_download(
                self.name.repo,
                name,
                revision=self.commit,
                endpoint=_endpoint(),
                cache_dir=_cache(),
                library_name="cpumix",
                tqdm_class=bar,
            )
        return Path(found)

    def read_range(self, name: str, offset: int, count: int) -> bytes:
        """Return `count` bytes of a file from `offset` on, or fewer at its end."""
        for tries in range(_TRIES - 1):
            with suppress(Unreachable):
                return self._read_range(name, offset, count)
            time.sleep(tries)
        return self._read_range(name, offset, count)

    def _read_range(self, name: str, offset: int, count: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(self.name.repo, name, revision=self.commit, endpoint=_endpoint())
        headers = build_hf_headers(library_name="cpumix")
        headers |= {"Range": f"bytes={offset}-{offset + count - 1}", "Accept-Encoding": "identity"}
        found = bytearray()
        with (
            _explained(self.name),
            get_session().stream("GET", url, headers=headers, follow_redirects=True) as answer,
        ):
            hf_raise_for_status(answer)
            if answer.status_code != 206:
                raise ConvertError(
                    f"hub: expected {count} bytes of {quoted(name)}, found a server that sends "
                    "whole files only. Leave --discard-shards out."
                )
            for piece in answer.iter_bytes():
                found += piece
                if len(found) >= count:
                    break
        return bytes(found[:count])


def connect(name: HubName) -> Repository:
    """Ask the hub for a repository. Raises Unreachable without a connection, or ConvertError."""
    try:
        from huggingface_hub import HfApi
    except ImportError as e:
        raise ConvertError(
            f"hub: {quoted(name.repo)} is no folder here, and its download needs another package. "
            "Run `pip install 'cpumix[hub]'`."
        ) from e
    with _explained(name):
        info = HfApi(endpoint=_endpoint(), library_name="cpumix").model_info(
            name.repo, revision=name.revision or "main", files_metadata=True
        )
    files = [
        HubFile(one.rfilename, one.size or 0, one.blob_id or "") for one in info.siblings or []
    ]
    return Repository(name, info.sha or "main", files)


def find_cached(name: HubName, file: str) -> Path | None:
    """Return a file that an earlier download left, if any."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        name.repo, file, cache_dir=_cache(), revision=name.revision or "main"
    )
    return Path(found) if isinstance(found, str) else None


class Unreachable(ConvertError):
    """The connection failed, or broke: its `__cause__` says why."""


@contextmanager
def _explained(name: HubName) -> Iterator[None]:
    """Turn what the hub's package raises into ConvertErrors."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        yield
    except GatedRepoError as e:
        raise ConvertError(
            f"hub: {quoted(name.repo)} asks for an agreement first. Accept it on the repository's "
            "page, then run `hf auth login`."
        ) from e
    except HfHubHTTPError as e:
        status = getattr(e.response, "status_code", "no")
        raise ConvertError(
            f"hub: expected the repository {quoted(name.repo)} at revision "
            f"{quoted(name.revision or 'main')}, found status {status}. Check the name, and "
            "`hf auth whoami` if it is private."
        ) from e
    except ConvertError:
        raise
    except Exception as e:  # that of a broken connection is another in each version of the package
        raise Unreachable(
            f"hub: the connection broke while {quoted(name.repo)} was downloaded: {quoted(e)}. "
            "Run the same command again: what is here is kept."
        ) from e


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _cache() -> str | None:
    return os.environ.get("HF_HUB_CACHE") or None
