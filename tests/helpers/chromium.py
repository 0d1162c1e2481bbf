"""A headless Chromium for tests with real clicks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip


def find_chromium() -> str:
    """The browser's program: that of the variable MEMKIT_CHROMIUM, or the first of the usual names on the path."""
    given = os.environ.get("MEMKIT_CHROMIUM")
    found = shutil.which(given) if given else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail(
            f"There is no browser: none of {', '.join(NAMES)} is on the path, and MEMKIT_CHROMIUM is {given!r}; "
            "install Chromium (apt-get install chromium), or set MEMKIT_CHROMIUM to its program."
        )
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        browser.close()


class Watched:
    """A page of its own visitor, whose console errors and requests to other hosts are collected in ``wrong``."""

    def __init__(self, browser: Any, width: int = 1280, height: int = 900, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page, self.wrong = self.context.new_page(), list[str]()
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda message: message.type == "error" and self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._request(request.url))

    def _request(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:", "file:")):
            self.wrong.append(f"request to {url}")

    def fits(self) -> bool:
        """Whether the page needs no horizontal scrolling."""
        return self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
