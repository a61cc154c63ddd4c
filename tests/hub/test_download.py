"""Downloads from a local server that speaks as the hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Server

from cpumix import hub
from cpumix.checkpoint import open_checkpoint
from cpumix.errors import ConvertError
from cpumix.hub import HubName, download

pytestmark = pytest.mark.slow
NAME = HubName("org/tiny", None, None)


@pytest.mark.filterwarnings("ignore")  # the hub's own, on unauthenticated requests and old caches
def test_download_takes_what_is_needed(server: Server) -> None:
    place = download(NAME)
    assert "README.md" not in server.taken and "pytorch_model.bin" not in server.taken
    assert {"config.json", "tokenizer.model"} <= set(server.taken)
    tensors = open_checkpoint(place).tensors
    rows = tensors["token_embd.weight"].read_rows(0, 600)
    expected = open_checkpoint(server.folder).tensors["token_embd.weight"].read_rows(0, 600)
    assert (rows == expected).all()
    server.taken.clear()
    assert download(NAME) == place
    assert server.taken == []  # all of it is in the cache


@pytest.mark.filterwarnings("ignore")
def test_broken_download_goes_on(server: Server) -> None:
    server.breaks = 1
    assert open_checkpoint(download(NAME)).tensors


@pytest.mark.filterwarnings("ignore")
def test_download_that_cannot_go_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def broken(*_: object, **__: object) -> None:
        raise ConnectionError("reset\x1b by peer")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(ConvertError, match=r"the connection broke while .*reset\\x1b by.*kept"):
        download(NAME)


@pytest.mark.filterwarnings("ignore")
def test_without_a_connection_the_cache_serves(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = download(NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert download(NAME) == place
    message = r'cannot be reached for "org/other": ".* refused", and nothing of it is in'
    with pytest.raises(ConvertError, match=message):
        download(HubName("org/other", None, None))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", 'repository "org/tiny" at revision "main", found status 404. Check'),
        (404, "RevisionNotFound", 'repository "org/tiny" at revision "main", found status 404'),
        (401, "RepoNotFound", "found status 401. Check the name, and `hf auth whoami`"),
        (403, "GatedRepo", '"org/tiny" asks for an agreement first. Accept it on the repository'),
    ],
)
def test_refusals_of_the_hub(server: Server, status: int, code: str, message: str) -> None:
    server.status, server.code = status, code
    with pytest.raises(ConvertError, match=message):
        download(NAME)


def test_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConvertError, match=r"no folder here, .* Run `pip install 'cpumix\[hub\]'`"):
        hub.download(NAME)


@pytest.mark.slow
def test_convert_by_name(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    line = [
        sys.executable,
        "-m",
        "cpumix",
        "convert",
        "org/tiny",
        str(target),
        "--precision",
        "int8",
    ]
    done = subprocess.run(line, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert target.read_bytes()[:4] == b"GGUF"
