"""The chat page's files; test_chat_browser.py looks at them in a browser."""

from __future__ import annotations

import re

import httpx2

from cpumix.serve.chat_page import FILES, FOLDER


def test_every_file_is_served_and_nothing_else(demo):
    page = httpx2.get(demo.url)
    assert page.text == (FOLDER / "index.html").read_text("utf-8")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name, path in FILES.items():
        assert httpx2.get(f"{demo.url}/page/{name}").content == path.read_bytes()
    for name in ("../app.py", "%2e%2e/app.py", "vendor", "other.js", "vendor/purify.LICENSE"):
        assert httpx2.get(f"{demo.url}/page/{name}").status_code == 404


def test_page_asks_nobody_else():
    for path in [path for name, path in FILES.items() if not name.startswith("vendor/")]:
        text = path.read_text("utf-8")
        assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org)[\w-]+\.\w+", text)
    assert {path.name for path in (FOLDER / "vendor").iterdir()} == {
        "markdown-it.min.js",
        "markdown-it.LICENSE",
        "purify.min.js",
        "purify.LICENSE",
    }
