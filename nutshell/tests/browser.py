"""A real, headless Chromium for the tests: Debian's, driven by Playwright."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import (
    ConsoleMessage,
    Error,
    HttpCredentials,
    Locator,
    Page,
    Request,
    sync_playwright,
)

__all__ = ["CHROMIUM", "Locator", "Page", "opened"]

CHROMIUM = shutil.which("chromium")


@contextmanager
def opened(expected: str = "$^", password: str | None = None) -> Iterator[Page]:
    """A new page. At the end it must have had no errors, and have called this machine alone.

    `expected` is the pattern of messages on the console that are no errors. `password` is what it
    types when it is asked for one.
    """
    wrong: list[str] = []

    def hear(line: ConsoleMessage) -> None:
        if line.type == "error" and not re.search(expected, line.text):
            wrong.append(line.text)

    def fail(error: Error) -> None:
        wrong.append(str(error))

    def ask(request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob", "file") and url.hostname != "127.0.0.1":
            wrong.append(request.url)

    with sync_playwright() as playwright:
        # As root, which tests in containers often are, Chromium runs only without its sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        credentials: HttpCredentials | None = None
        if password is not None:
            credentials = {"username": "any", "password": password}
        page = browser.new_page(http_credentials=credentials)
        page.on("console", hear)
        page.on("pageerror", fail)
        page.on("request", ask)
        try:
            yield page
        finally:
            browser.close()
    assert not wrong, wrong
