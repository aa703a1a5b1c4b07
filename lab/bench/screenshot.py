"""Pictures of the live view for the README: `make screenshot` takes them."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[2]

import httpx

from nutshell.tests.browser import CHROMIUM, opened
from nutshell.tests.postgres import Postgres
from nutshell.tests.service import TOKEN, Service, Variables, checkout, migrate

SCHEMES: list[Literal["light", "dark"]] = ["light", "dark"]


def main() -> None:
    if CHROMIUM is None:
        sys.exit("Debian's chromium is not installed.")
    server = Postgres()
    try:
        migrate(server.url(), tree=checkout())
        variables: Variables = {"DATABASE_URL": server.url(), "API_TOKEN": TOKEN, "TRACE": 1}
        with (
            Service(variables, tree=checkout()) as service,
            opened("401 ", password=TOKEN) as page,
            service.client() as client,
        ):
            page.set_viewport_size({"width": 1000, "height": 840})
            call_at_once(client)  # the first time takes longer
            page.goto(f"{service.url}/trace")
            page.locator("#state", has_text="request").wait_for()
            page.get_by_role("button", name="Clear").click()
            call_at_once(client)
            page.wait_for_function("[...requests.values()].filter(r => r.done).length == 12")
            page.wait_for_timeout(500)  # until the last are drawn
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=ROOT / "docs" / f"trace-{scheme}.png")
    finally:
        server.close()


def call_at_once(client: httpx.Client) -> None:
    """Twelve items are created in the same moment, each over a connection of its own."""
    with ThreadPoolExecutor(12) as threads:
        calls = [threads.submit(client.post, "/items", json={"name": "Card"}) for _ in range(12)]
        assert [call.result().status_code for call in calls] == [201] * 12


if __name__ == "__main__":
    main()
