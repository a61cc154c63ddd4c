"""The chat page, in Debian's chromium; skipped where that is missing."""

from __future__ import annotations

import re
import shutil

import httpx2
import pytest
from served_models import serve

import cpumix
from cpumix.serve.chat_page import FILES, FOLDER

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-gpu"]


def test_every_file_is_served_and_nothing_else(demo):
    page = httpx2.get(demo.url)
    assert page.text == (FOLDER / "index.html").read_text("utf-8")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name, path in FILES.items():
        assert httpx2.get(f"{demo.url}/page/{name}").content == path.read_bytes()
    for name in ("../app.py", "%2e%2e/app.py", "vendor", "other.js", "vendor/purify.LICENSE"):
        assert httpx2.get(f"{demo.url}/page/{name}").status_code == 404


def test_page_asks_nobody_else():
    for name in ("index.html", "chat.js", "chat.css"):
        text = (FOLDER / name).read_text("utf-8")
        assert not re.findall(r"(?:https?:)?//(?!www\.w3\.org)[\w-]+\.\w+", text)
    assert {path.name for path in (FOLDER / "vendor").iterdir()} == {
        "markdown-it.min.js",
        "markdown-it.LICENSE",
        "purify.min.js",
        "purify.LICENSE",
    }


@pytest.fixture
def page():
    if CHROMIUM is None:
        pytest.skip("needs chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        yield page
        browser.close()
        assert faults == []


def ask(page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")


def shows(page, name: str, pattern: str) -> None:
    """Wait until an element's text is like a pattern; scripts of tests are no part of the page."""
    from playwright.sync_api import expect

    expect(page.locator(f"#{name}")).to_have_text(re.compile(pattern), timeout=60_000)


@pytest.mark.slow
def test_conversation(page, demo):
    page.goto(demo.url)
    shows(page, "model", "^seedling-int8$")
    page.get_by_text("Settings").click()
    page.locator("#tokens").fill("12")
    ask(page, "Who returned?")
    shows(page, "status", "^Done. 12 tokens")
    answer = page.locator("article.assistant .text")
    assert answer.inner_text().strip()
    before = page.locator("article").all_inner_texts()
    page.reload()
    page.wait_for_selector("article.assistant")
    assert page.locator("article").all_inner_texts() == before
    page.get_by_role("textbox", name="Message").press("ArrowUp")  # edit the last message
    assert page.get_by_role("textbox", name="Message").input_value() == "Who returned?"
    assert page.locator("article").count() == 0
    ask(page, "And who left?")
    shows(page, "status", "^Done.")
    assert page.locator("article").count() == 2


@pytest.mark.slow
def test_stop(page, demo):
    page.goto(demo.url)
    shows(page, "model", ".")
    page.get_by_text("Settings").click()
    page.locator("#tokens").fill("400")
    ask(page, "Who returned?")
    shows(page, "status", "^Writing")
    page.keyboard.press("Escape")
    shows(page, "status", "^(Stopped|Done)")
    assert page.get_by_role("button", name="Send").is_visible()


@pytest.mark.slow
def test_what_a_model_writes_is_no_program(page, demo):
    page.goto(demo.url)
    evil = (
        "<img src=x onerror=window.bad=1><script>window.bad=1</script> [a](javascript:window.bad=1)"
    )
    page.evaluate(
        "text => localStorage.setItem('cpumix.messages', JSON.stringify("
        "[{role: 'user', content: text}, {role: 'assistant', content: text + ' **bold**'}]))",
        evil,
    )
    page.reload()
    page.wait_for_selector("article.assistant strong")
    assert page.evaluate("window.bad") is None
    assert page.locator("article img, article script, article a[href^=javascript]").count() == 0


@pytest.mark.slow
def test_wrong_key(page, chat_file):
    with (
        cpumix.load(chat_file, threads=1) as model,
        serve(model, keys=["right"]) as served,
    ):
        page.goto(served.url)
        alert = page.get_by_role("alert")
        shows(page, "error", ".")
        assert "expected a key of this server" in alert.inner_text()
        page.get_by_text("Settings").click()
        page.get_by_label("Key of this server").fill("right")
        page.keyboard.press("Tab")
        shows(page, "model", "^tiny-chat$")
        shows(page, "error", "^$")


@pytest.mark.slow
def test_model_without_template_goes_on_with_texts(page, demo_model):
    with cpumix.load(demo_model, threads=1, context=256) as model, serve(model) as served:
        page.goto(served.url)
        shows(page, "model", "goes on with texts")
        ask(page, "And they returned to the city")
        shows(page, "status", "^Done.")
        assert page.locator("article.assistant .text").inner_text()


@pytest.mark.slow
def test_dead_server(page, chat_file):
    with cpumix.load(chat_file, threads=1) as model, serve(model) as served:
        page.goto(served.url)
        shows(page, "model", ".")
    ask(page, "Anybody there?")
    shows(page, "error", ".")
    assert page.get_by_role("button", name="Send").is_visible()
