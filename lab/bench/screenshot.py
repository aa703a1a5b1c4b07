"""`make screenshot`: pictures of the live view for the README, and recordings of it, in docs/."""

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Literal

import httpx
from playwright.sync_api import Page

from nutshell.tests.browser import CHROMIUM, opened
from nutshell.tests.postgres import Postgres
from nutshell.tests.service import TOKEN, Service, Variables, checkout, copy_tree, migrate

DOCS = Path(__file__).parents[2] / "docs"
SCHEMES: list[Literal["light", "dark"]] = ["light", "dark"]


def main() -> None:
    if CHROMIUM is None:
        sys.exit("Debian's chromium is not installed.")
    server = Postgres()
    try:
        migrate(server.url(), tree=checkout())
        variables: Variables = {"DATABASE_URL": server.url(), "API_TOKEN": TOKEN, "TRACE": 1}
        with tempfile.TemporaryDirectory() as folder:
            tree = copy_tree(Path(folder) / "tree")
            forget_lock(tree / "main.py")
            with Service(variables, tree=tree) as service:
                record_lost_update(service)
        with Service(variables, tree=checkout()) as service:
            record_burst(service)
    finally:
        server.close()


def record_burst(service: Service) -> None:
    """Twelve items are created at once, on four connections."""
    with opened("401 ", password=TOKEN) as page, service.client() as client:
        create_items(client)  # the first time takes longer
        open_view(page, service)
        create_items(client)
        wait_for(page, 12)
        page.set_viewport_size({"width": 1000, "height": 890})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=DOCS / f"trace-{scheme}.png")
        save(page, "burst.html")


def record_lost_update(service: Service) -> None:
    """Two requests change one item, without a lock."""
    with opened("401 ", password=TOKEN) as page, service.client() as client:
        path = client.post("/items", json={"name": "Reel"}).headers["location"]
        client.patch(path, json={"name": "Reel"})  # the first time takes longer
        open_view(page, service)
        with ThreadPoolExecutor(2) as threads:
            for name in ("Reel one", "Reel two"):
                threads.submit(client.patch, path, json={"name": name})
                sleep(0.3)
            wait_for(page, 2)
        save(page, "lost-update.html")


def forget_lock(main: Path) -> None:
    """Makes `update_item` read the row without a lock, and take its time until it writes."""
    locked = "await session.get_one(Item, item_id, with_for_update=True)\n    if_match.check"
    slow = "await session.get_one(Item, item_id)\n    await asyncio.sleep(1)\n    if_match.check"
    text = main.read_text()
    assert text.count(locked) == 2  # of PATCH and DELETE
    main.write_text("import asyncio\n" + text.replace(locked, slow, 1))


def open_view(page: Page, service: Service) -> None:
    page.goto(f"{service.url}/trace")
    page.locator("#state", has_text="request").wait_for()
    page.get_by_role("button", name="Clear").click()


def create_items(client: httpx.Client) -> None:
    with ThreadPoolExecutor(12) as threads:
        calls = [threads.submit(client.post, "/items", json={"name": "Card"}) for _ in range(12)]
        assert [call.result().status_code for call in calls] == [201] * 12


def wait_for(page: Page, number: int) -> None:
    page.wait_for_function(f"[...requests.values()].filter(r => r.done).length == {number}")
    page.wait_for_timeout(500)  # until the last are drawn


def save(page: Page, name: str) -> None:
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as HTML").click()
    download.value.save_as(DOCS / name)


if __name__ == "__main__":
    main()
