"""Names on the hub: which files are needed, and downloads from a local server that speaks as it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import checkpoints
import pytest

from cpumix import hub
from cpumix.checkpoint import open_checkpoint
from cpumix.converter.shard_disposal import most_space
from cpumix.errors import ConfigError, ConvertError
from cpumix.hub import HubFile, HubName, choose_files, download, parse_name

pytestmark = pytest.mark.slow

SHA = "0123456789abcdef0123456789abcdef01234567"
TOKENIZER = Path(__file__).parent / "data/tokenizer/small.model"


# ---- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mistralai/Mixtral-8x7B-v0.1", HubName("mistralai/Mixtral-8x7B-v0.1", None, None)),
        ("a/b@refs/pr/3", HubName("a/b", None, "refs/pr/3")),
        ("TheBloke/x-GGUF/x.Q4_K_M.gguf", HubName("TheBloke/x-GGUF", "x.Q4_K_M.gguf", None)),
        ("a/b/c.gguf@main", HubName("a/b", "c.gguf", "main")),
        ("folder", None),
        ("/tmp/a/b", None),
        ("../a", None),
        ("a/../b.gguf", None),
        ("a/b/c", None),
        ("./a/b", None),
    ],
)
def test_names(text: str, name: HubName | None) -> None:
    assert parse_name(text) == name


# ---- which files are needed


def files(**sizes: int) -> list[HubFile]:
    return [HubFile(name.replace("__", "/"), size) for name, size in sizes.items()]


SIDE = {
    "config.json": 1,
    "tokenizer.model": 1,
    "README.md": 9,
    "additional_chat_templates/a.jinja": 1,
}
WHOLE = {
    "model-00001-of-00002.safetensors": 60,
    "model-00002-of-00002.safetensors": 40,
    "model.safetensors.index.json": 1,
}
BIN = {"pytorch_model.bin": 100, "training_args.bin": 1}
NEEDED = {"config.json", "tokenizer.model", "additional_chat_templates/a.jinja"}


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [
        (WHOLE, WHOLE.keys()),
        (WHOLE | BIN, WHOLE.keys()),
        (WHOLE | {"pytorch_model.bin": 50}, {"pytorch_model.bin"}),  # half as many bits
        (WHOLE | {"consolidated.safetensors": 100, "params.json": 1}, {*WHOLE, "params.json"}),
        (
            {"consolidated.00.pt": 3, "consolidated.01.pt": 3},
            {"consolidated.00.pt", "consolidated.01.pt"},
        ),
        ({"weights.0.npz": 5, "onnx/model.onnx": 3}, {"weights.0.npz"}),
        ({"model.safetensors": 9, "extra.safetensors": 9}, {"model.safetensors"}),
        ({"original/consolidated.00.pth": 1} | BIN, {"pytorch_model.bin"}),
        (WHOLE | {"model.Q4_0.gguf": 20}, WHOLE.keys()),  # another model's numbers
    ],
)
def test_smallest_sufficient_set(sizes: dict[str, int], weights: set[str]) -> None:
    listed = [HubFile(name, size) for name, size in (SIDE | sizes).items()]
    assert set(choose_files(listed, None, "a/b")) == set(weights) | NEEDED


def test_models_of_gguf() -> None:
    one = files(**{"x.Q4_0.gguf": 5, "mmproj-x.gguf": 1, "x.imatrix.gguf": 1, "README.md": 1})
    assert choose_files(one, None, "a/b") == ["x.Q4_0.gguf"]
    parts = [f"x.Q8_0-{i:05}-of-00002.gguf" for i in (1, 2)]
    two = one + [HubFile(part, 9) for part in parts]
    assert choose_files(two, parts[0], "a/b") == parts
    with pytest.raises(ConvertError, match=r"found 2 GGUF models, such as .* ORG/NAME/FILE\.gguf"):
        choose_files(two, None, "a/b")
    with pytest.raises(ConvertError, match=r'expected the file "y\.gguf" in "a/b", found none'):
        choose_files(two, "y.gguf", "a/b")
    with pytest.raises(ConvertError, match=r"expected one checkpoint in .* Name another rep"):
        choose_files(files(**{"README.md": 1}), None, "a/b")


# ---- a server that speaks the hub's protocol


class Server(ThreadingHTTPServer):
    """Serves one repository, "org/tiny", from a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.taken: list[str] = []  # files whose bytes were asked for
        self.breaks = 0  # how many answers to cut off in the middle
        self.status = 200
        self.code = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(with_body=False)

    def do_GET(self, with_body: bool = True) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.server.status != 200:
            return self.answer(
                b"{}", with_body, self.server.status, {"X-Error-Code": self.server.code}
            )
        names = sorted(
            p.relative_to(self.server.folder).as_posix()
            for p in self.server.folder.rglob("*")
            if p.is_file()
        )
        if path.startswith("/api/models/org/tiny/revision/"):
            listed = [{"rfilename": n, "size": len(self.read(n))} for n in names]
            return self.answer_json({"id": "org/tiny", "sha": SHA, "siblings": listed}, with_body)
        if path.startswith("/api/models/org/tiny/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(self.read(n)), "oid": self.etag(n)}
                for n in names
            ]
            return self.answer_json(tree, with_body)
        prefix = f"/org/tiny/resolve/{SHA}/"
        if path.startswith(prefix) and path.removeprefix(prefix) in names:
            return self.answer_file(path.removeprefix(prefix), with_body)
        return self.answer(b"{}", with_body, 404, {"X-Error-Code": "RepoNotFound"})

    def answer_file(self, name: str, with_body: bool) -> None:
        data, status, headers = self.read(name), 200, {}
        if with_body:
            self.server.taken.append(name)
        start = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        if int(start):
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[int(start) :], 206
        headers |= {"X-Repo-Commit": SHA, "ETag": f'"{self.etag(name)}"'}
        self.answer(data, with_body, status, headers, cut=name.endswith(".safetensors"))

    def read(self, name: str) -> bytes:
        return (self.server.folder / name).read_bytes()

    def etag(self, name: str) -> str:
        return hashlib.sha1(self.read(name)).hexdigest()

    def answer_json(self, value: object, with_body: bool) -> None:
        self.answer(
            json.dumps(value).encode(), with_body, 200, {"Content-Type": "application/json"}
        )

    def answer(
        self, data: bytes, with_body: bool, status: int, headers: dict[str, str], cut: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if with_body and cut and self.server.breaks:
            self.server.breaks -= 1
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif with_body:
            self.wfile.write(data)


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
def test_without_a_connection_the_cache_serves(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = download(NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert download(NAME) == place
    with pytest.raises(ConvertError, match=r"cannot be reached for .*, and nothing of it is in"):
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


@pytest.mark.filterwarnings("ignore")
def test_shards_are_deleted_one_by_one(server: Server, tmp_path: Path) -> None:
    import cpumix

    whole, target = tmp_path / "whole.bin", tmp_path / "x.bin"
    place = download(NAME)
    cpumix.convert(place, whole, "int8")
    shards = sorted(place.glob("*.safetensors"))
    blobs = [shard.resolve() for shard in shards]
    left = []
    cpumix.convert(
        "org/tiny",
        target,
        "int8",
        discard_shards=True,
        progress=lambda *_: left.append(sum(blob.exists() for blob in blobs)),
    )
    assert left[0] == 2 and left[-1] == 1  # the last one goes when all is written
    assert not any(path.exists() for path in (*shards, *blobs))
    assert (place / "config.json").exists()
    skip = 16384 * 4  # the header has the source's name
    assert target.read_bytes()[skip:] == whole.read_bytes()[skip:]
    assert open_checkpoint(download(NAME)).tensors  # what is gone is downloaded again


@pytest.mark.parametrize("options", [{"resume": True}, {}])
def test_shards_of_a_folder_are_never_deleted(tmp_path: Path, options: dict[str, bool]) -> None:
    import cpumix

    source = "org/tiny" if options else str(tmp_path)
    with pytest.raises(ConfigError, match="expected a name on the hub as source and no resume"):
        cpumix.convert(source, tmp_path / "x.bin", discard_shards=True, **options)


def test_space_that_is_needed_at_most(tmp_path: Path) -> None:
    a, b = (tmp_path / name for name in "ab")
    a.write_bytes(bytes(100))
    b.write_bytes(bytes(50))
    both, first, second = frozenset({a, b}), frozenset({a}), frozenset({b})
    assert most_space([(both, 10), (first, 30), (second, 20), (second, 20)]) == 40
    assert most_space([(second, 80), (first, 30)]) == 80
    assert most_space([]) == 0


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
