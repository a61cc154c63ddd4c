"""The chat page at "/": files of this package, and nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from cpumix.api.errors import ApiError

FOLDER = Path(__file__).parent / "page"
MEDIA_TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
FILES = {
    path.relative_to(FOLDER).as_posix(): path
    for path in FOLDER.rglob("*")
    if path.suffix in MEDIA_TYPES
}
HEADERS = {
    "content-security-policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def is_page(method: str, path: str) -> bool:
    """Tell whether a request is for a file of the page, which everybody may have."""
    return method in ("GET", "HEAD") and (path == "/" or path.startswith("/page/"))


def routes() -> list[Route]:
    """Return the routes of the page."""

    async def page(request: Request) -> Response:
        return _file("index.html")

    async def part(request: Request) -> Response:
        return _file(request.path_params["name"])

    return [
        Route("/", page, methods=["GET"]),
        Route("/page/{name:path}", part, methods=["GET"]),
    ]


def _file(name: str) -> Response:
    if name not in FILES:
        raise ApiError(404, "page: expected one of its files, found another name.")
    path = FILES[name]
    return FileResponse(path, headers=HEADERS, media_type=MEDIA_TYPES[path.suffix])
