"""The documentation page in a real browser: it must work offline, and on a phone."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nutshell.tests.browser import CHROMIUM, opened
from nutshell.tests.service import TOKEN, Service, Variables

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed"),
]
OVERFLOWING = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def test_docs_work_offline(tmp_path: Path) -> None:
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "API_TOKEN": TOKEN}
    with Service(variables) as service, opened() as page:
        page.goto(f"{service.url}/docs")
        page.get_by_role("button", name="Authorize").first.click()
        page.locator(".auth-container input").fill(TOKEN)
        page.locator(".auth-btn-wrapper button", has_text="Authorize").click()
        page.locator(".auth-btn-wrapper button", has_text="Close").click()
        # Each with its example as it stands.
        for tag, name in (
            ("shelves", "create_shelf"),
            ("books", "create_book"),
            ("books", "create_books"),
            ("books", "update_book"),  # of the row with the id 1
        ):
            operation = page.locator(f"#operations-{tag}-{name}")
            operation.locator(".opblock-summary-control").click()
            operation.locator("button.execute").click()
            status = operation.locator(".live-responses-table .response-col_status")
            status = status.filter(has_text=re.compile(r"\d{3}")).first
            status.wait_for()
            expected = "200" if name == "update_book" else "201"
            assert status.inner_text().split()[0] == expected, (name, operation.inner_text())
        assert urlsplit(page.url).hostname == "127.0.0.1"


def test_docs_fit_on_a_phone(tmp_path: Path) -> None:
    with Service({"DATABASE_URL": f"sqlite:///{tmp_path}/test.db"}) as service, opened() as page:
        page.set_viewport_size({"width": 360, "height": 740})
        page.goto(f"{service.url}/docs")
        page.get_by_role("heading", name="Retries").wait_for()
        for tag, name in (("shelves", "list_shelves"), ("books", "update_book")):
            operation = page.locator(f"#operations-{tag}-{name}")
            operation.locator(".opblock-summary-control").click()
            operation.locator(".responses-table tr.response[data-code='503']").wait_for()
            assert page.evaluate(OVERFLOWING) == 0
        text = page.locator("#operations-shelves-list_shelves .responses-table").inner_text()
        assert '"label": "Top"' in text, "the example of the answer"
        assert "The database is away or busy" in text
