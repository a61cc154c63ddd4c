"""Downloads checkpoints by their names on the Hugging Face hub, and no file that is not needed.

A name is ORG/NAME, ORG/NAME@REVISION, or ORG/NAME/FILE.gguf where a repository has several models.
The files go to the hub's own cache, which other programs share, and a broken download goes on where
it was. HF_ENDPOINT, HF_HUB_CACHE, HF_TOKEN and HF_HUB_OFFLINE mean what they always do.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from cpumix.checkpoint.sources import huggingface, mistral
from cpumix.checkpoint.sources.side_files import is_side_file
from cpumix.errors import ConvertError, quoted

_NAME = re.compile(
    r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:/(?P<file>[\w.+-]+\.gguf))?(?:@(?P<revision>[\w./-]+))?"
)
_PART = re.compile(r"(.*)-\d{5}-of-(\d{5}\.gguf)")
_SETTINGS = ("config.json", "params.json", "quantize_config.json", "quant_config.json")
# Of forms whose sizes differ by less, the first is taken: safetensors need no care.
_ABOUT_EQUAL = 1.05


class HubName(NamedTuple):
    """What a user asks for."""

    repo: str
    file: str | None
    revision: str | None


class HubFile(NamedTuple):
    """A file of a repository."""

    name: str
    nbytes: int


def parse_name(text: str) -> HubName | None:
    """Return what a text names on the hub, None if it cannot be such a name."""
    found = _NAME.fullmatch(text)
    return HubName(found["repo"], found["file"], found["revision"]) if found else None


def choose_files(files: Iterable[HubFile], wanted: str | None, where: str) -> list[str]:
    """Return the files of a repository that make the smallest complete checkpoint.

    `wanted` is a GGUF file that was asked for. Raises ConvertError if there is no checkpoint, or
    if which GGUF model is meant cannot be told.
    """
    sizes = {file.name: file.nbytes for file in files}
    if wanted is not None:
        return _gguf_parts(wanted, sizes, where)
    forms = []
    for kind in (*huggingface.SHARDS, *mistral.SHARDS):
        shards = kind.pick(name for name in sizes if "/" not in name)
        if shards and shards != [kind.single] and kind.index_name in sizes:
            shards.append(kind.index_name)
        forms += [shards] if shards else []
    if forms:
        totals = [sum(sizes[name] for name in form) for form in forms]
        weights = next(
            f for f, n in zip(forms, totals, strict=True) if n <= _ABOUT_EQUAL * min(totals)
        )
        return weights + [name for name in sizes if name in _SETTINGS or is_side_file(name)]
    models = sorted({_PART.sub(r"\1-00001-of-\2", name) for name in sizes if _is_model(name)})
    if len(models) != 1:
        found = f"{len(models)} GGUF models, such as {quoted(models[0])}" if models else "none"
        raise ConvertError(
            f"hub: expected one checkpoint in {quoted(where)}, found {found}. Name "
            + ("one of them, ORG/NAME/FILE.gguf." if models else "another repository.")
        )
    return _gguf_parts(models[0], sizes, where)


def _is_model(name: str) -> bool:
    return name.endswith(".gguf") and not name.startswith("mmproj") and "imatrix" not in name


def _gguf_parts(name: str, sizes: dict[str, int], where: str) -> list[str]:
    """Return a GGUF file, and the other parts of its model. Raises ConvertError if it is absent."""
    if name not in sizes:
        raise ConvertError(f"hub: expected the file {quoted(name)} in {quoted(where)}, found none.")
    found = _PART.fullmatch(name)
    if not found:
        return [name]
    parts = re.compile(rf"{re.escape(found[1])}-\d{{5}}-of-{re.escape(found[2])}")
    return sorted(other for other in sizes if parts.fullmatch(other))


def download(name: HubName) -> Path:
    """Download what is needed of a checkpoint; return its folder, or its GGUF file.

    Without a connection, what was downloaded before is used. Raises ConvertError.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
    except ImportError as e:
        raise ConvertError(
            f"hub: {quoted(name.repo)} is no folder here, and its download needs another package. "
            "Run `pip install 'cpumix[hub]'`."
        ) from e
    endpoint = os.environ.get("HF_ENDPOINT") or None
    cache = os.environ.get("HF_HUB_CACHE") or None
    try:
        info = HfApi(endpoint=endpoint, library_name="cpumix").model_info(
            name.repo, revision=name.revision or "main", files_metadata=True
        )
        files = [HubFile(one.rfilename, one.size or 0) for one in info.siblings or []]
        chosen = choose_files(files, name.file, name.repo)
        folder = snapshot_download(
            name.repo,
            revision=name.revision,
            allow_patterns=[glob.escape(file) for file in chosen],
            endpoint=endpoint,
            cache_dir=cache,
            library_name="cpumix",
        )
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
        return _cached(name, cache, e)
    return _model_in(Path(str(folder)), chosen)


def _cached(name: HubName, cache: str | None, error: Exception) -> Path:
    """Return what an earlier download left. Raises ConvertError if that is nothing."""
    from huggingface_hub import try_to_load_from_cache

    for file in (name.file, "config.json", "params.json"):
        found = file and try_to_load_from_cache(
            name.repo, file, cache_dir=cache, revision=name.revision or "main"
        )
        if isinstance(found, str):
            return Path(found) if file == name.file else Path(found).parent
    raise ConvertError(
        f"hub: cannot be reached for {quoted(name.repo)}, and nothing of it is in the cache: "
        f"{quoted(error)}. Check the connection."
    )


def _model_in(folder: Path, chosen: Sequence[str]) -> Path:
    """Return the GGUF file if that is what was chosen, else the folder."""
    return folder / chosen[0] if chosen[0].endswith(".gguf") else folder
