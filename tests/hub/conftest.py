"""A repository of four shards on a local hub."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import pytest
from hub_server import Server

TOKENIZER = Path(__file__).parents[1] / "data/tokenizer/small.model"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pytest.importorskip("huggingface_hub")
    folder = tmp_path / "repository"
    config = checkpoints.MIXTRAL | {"vocab_size": 600}
    checkpoints.write_checkpoint(folder, config, shards=2, tokenizer=TOKENIZER.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(bytes(1 << 20))
    (folder / "README.md").write_text("not needed")
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()
        thread.join()
