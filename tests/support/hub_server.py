"""A local server that speaks the protocol of the Hugging Face hub, for one repository."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class Server(ThreadingHTTPServer):
    """Serves one repository, "org/tiny", from a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.taken: list[str] = []  # files that were asked for from some byte to the end
        self.parts: list[str] = []  # files of which some bytes were asked for
        self.ranges = True  # whether it knows them
        self.gone: set[str] = set()  # files that it lists and does not have
        self.breaks = 0  # how many answers to cut off in the middle
        self._counting = threading.Lock()
        self.status = 200
        self.code = ""

    def breaks_now(self) -> bool:
        """Count an answer that may be cut off, and say whether it is."""
        with self._counting:
            breaks = self.breaks > 0
            self.breaks -= breaks
        return breaks

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
            listed = [
                {"rfilename": n, "size": len(self.read(n)), "blobId": self.etag(n)} for n in names
            ]
            return self.answer_json({"id": "org/tiny", "sha": SHA, "siblings": listed}, with_body)
        if path.startswith("/api/models/org/tiny/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(self.read(n)), "oid": self.etag(n)}
                for n in names
            ]
            return self.answer_json(tree, with_body)
        prefix = f"/org/tiny/resolve/{SHA}/"
        if path.startswith(prefix) and path.removeprefix(prefix) in {*names} - self.server.gone:
            return self.answer_file(path.removeprefix(prefix), with_body)
        return self.answer(b"{}", with_body, 404, {"X-Error-Code": "RepoNotFound"})

    def answer_file(self, name: str, with_body: bool) -> None:
        data, status, headers = self.read(name), 200, {}
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(data)) + 1, len(data))
        if "Range" in self.headers and self.server.ranges:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data, status = data[start:stop], 206
        if with_body:
            (self.server.parts if last else self.server.taken).append(name)
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
        if with_body and cut and self.server.breaks_now():
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif with_body:
            self.wfile.write(data)
