"""The recordings in docs/ are the page as it is now. `make screenshot` makes them anew."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from nutshell.live.trace import Span, Trace
from nutshell.live.view import PAGE
from nutshell.tests.browser import CHROMIUM, opened

DOCS = Path(__file__).parents[3] / "docs"
RECORDED = re.compile(r'<script type="application/json" id="recorded">(.*?)</script>\n', re.DOTALL)

# What each shows without opening a line.
SHOWN = {
    "burst.html": ["12 requests overlapped", "8 waited for one of the 4 slots for writes", "201"],
    "lost-update.html": ["2 requests overlapped", "Lost update: it read row 1", "SELECT items"],
}


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.html")), ids=lambda path: path.name)
def test_recording_is_of_this_page(path: Path) -> None:
    text = path.read_text()
    assert RECORDED.sub("", text, count=1) == PAGE.read_text(), "make screenshot"
    found = RECORDED.search(text)
    assert found is not None
    for request in json.loads(found[1])["requests"]:
        assert request["done"]
        assert {field.name for field in fields(Trace)} | {"process"} <= request.keys()
        for span in request["spans"]:
            assert span.keys() == {field.name for field in fields(Span)}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
@pytest.mark.parametrize("path", sorted(DOCS.glob("*.html")), ids=lambda path: path.name)
def test_recording_shows_what_its_name_says(path: Path) -> None:
    with opened() as page:
        page.goto(path.as_uri())
        page.locator("#groups .frame").wait_for()
        seen = page.locator("#groups").inner_text()
        for words in SHOWN[path.name]:
            assert words in seen
        assert "recorded" in page.get_by_role("status").inner_text()
