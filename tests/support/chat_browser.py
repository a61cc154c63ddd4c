"""The chat page in Debian's chromium, as the tests use it.

Where chromium or playwright is missing, tests are skipped, unless CPUMIX_NEED_CHROMIUM is set: then
they fail. Screenshots go to the folder that CPUMIX_SCREENSHOTS names.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-gpu"]
PATIENCE = 120_000  # milliseconds: a machine may be busy
# Reads all conversations, and so waits for what is being written to them.
READ_STORE = """() => new Promise((resolve, reject) => {
    const opening = indexedDB.open("cpumix");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
        const table = opening.result.transaction("conversations").objectStore("conversations");
        const reading = table.getAll();
        reading.onerror = () => reject(reading.error);
        reading.onsuccess = () => {
            opening.result.close();
            resolve();
        };
    };
})"""
PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True}


@contextmanager
def launched() -> Iterator[Any]:
    """Run chromium until the block ends."""
    if (chromium := shutil.which("chromium")) is None:
        _miss("needs chromium: apt-get install chromium")
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        _miss("needs playwright: pip install playwright")
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def violations(page: Any) -> str:
    """Return what axe finds wrong for people who cannot see or point, "" for nothing."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        _miss("needs axe: pip install axe-playwright-python")
    found = Axe().run(page)
    return found.generate_report() if found.violations_count else ""


def _miss(reason: str) -> None:
    if os.environ.get("CPUMIX_NEED_CHROMIUM"):
        pytest.fail(reason)
    pytest.skip(reason)


class Chat:
    """The page of one server, in a browser profile of its own."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.page = page = context.new_page()
        page.set_default_timeout(PATIENCE)
        self.faults: list[str] = []
        self.hosts: set[str] = set()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", self._hear)
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _hear(self, message: Any) -> None:
        """Note what the browser complains of, such as what the page's policy forbids."""
        refused = "Failed to load resource"  # an answer that is no success, or none
        if message.type == "error" and not message.text.startswith(refused):
            self.faults.append(message.text)

    def open(self, url: str) -> None:
        """Go to a server's page, and wait until it has greeted the server."""
        self.page.goto(url)
        self.page.wait_for_selector("#model:not(:empty)", state="attached")

    def ask(self, text: str) -> None:
        """Send a message by its key."""
        self.page.get_by_label("Message", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def wait(self) -> None:
        """Wait until the answer that is being written has ended."""
        self.page.wait_for_selector("#stop[hidden]", state="attached")

    def answer(self, text: str) -> str:
        """Send a message; return the answer as it is shown."""
        before = self.page.locator("article").count()
        self.ask(text)
        self.page.locator("article").nth(before + 1).wait_for(state="attached")
        self.wait()
        return str(self.texts()[-1])

    def texts(self) -> list[str]:
        """Return what the messages say."""
        return list(self.page.locator("article .text").all_inner_texts())

    def set(self, **settings: float | str) -> None:
        """Change settings, by the ids of their fields."""
        self.page.locator("#open-settings").click()
        for name, value in settings.items():
            field = self.page.locator(f"#{name}-box" if name != "system" else "#system")
            field.fill(str(value))
            field.blur()
        self.page.get_by_role("button", name="Done").click()

    def reload(self) -> None:
        """Load the page again, once the browser has stored what it was given."""
        self.page.evaluate(READ_STORE)
        self.page.reload()

    def shows(self, name: str, pattern: str) -> None:
        """Wait until the text of the element with an id is like a pattern."""
        from playwright.sync_api import expect

        expect(self.page.locator(f"#{name}")).to_have_text(re.compile(pattern))

    def shoot(self, name: str) -> None:
        """Keep a screenshot, if somebody wants them."""
        if folder := os.environ.get("CPUMIX_SCREENSHOTS"):
            self.page.wait_for_timeout(250)  # what moves has arrived
            self.page.screenshot(path=Path(folder) / f"{name}.png")
