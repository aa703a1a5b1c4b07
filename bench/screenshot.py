"""Pictures of the live view for the README: `make screenshot` takes them."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))

from nutshell.tests.browser import CHROMIUM, opened
from nutshell.tests.service import TOKEN, Service, checkout

SCHEMES: list[Literal["light", "dark"]] = ["light", "dark"]


def main() -> None:
    if CHROMIUM is None:
        sys.exit("Debian's chromium is not installed.")
    with TemporaryDirectory() as folder:
        variables = {"DATABASE_URL": f"sqlite:///{folder}/s.db", "API_TOKEN": TOKEN, "TRACE": "1"}
        with (
            Service(dict(variables), tree=checkout()) as service,
            opened() as page,
            service.client() as client,
        ):
            page.set_viewport_size({"width": 900, "height": 760})
            user = {"email": "ada@example.com", "name": "Ada Lovelace"}
            client.post("/users", json=user)
            for path in ("/users", "/users/1", "/todos?done=false"):
                client.get(path)  # the first use of anything takes longer
            page.goto(f"{service.url}/trace")
            page.locator("#state", has_text="request").wait_for()
            page.get_by_role("button", name="Clear").click()
            client.post("/users/1/posts", json={"title": "Notes", "body": "It weaves."})
            client.patch("/users/1", json={"bio": "Wrote the first program."})
            client.get("/posts?limit=2")
            page.locator('[data-path="/posts?limit=2"]').wait_for()
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                page.screenshot(path=ROOT / "docs" / f"trace-{scheme}.png")


if __name__ == "__main__":
    main()
