"""The live view, in a real browser; and the documentation page, which must work offline."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import URL

from nutshell import database
from nutshell.tests.browser import CHROMIUM, Page, opened
from nutshell.tests.service import BEARER, TOKEN, Service, Variables, copy_library, migrate

# What a newcomer might write, each with one thing wrong.
MISTAKES = """
import asyncio

from fastapi import Depends
from nutshell import database
from sqlmodel.ext.asyncio.session import AsyncSession

@app.post("/forgetful")
async def forget_commit(session: SessionDep) -> None:
    session.add(Book(title="forgotten"))
    await session.flush()


@app.get("/one-by-one")
async def read_one_by_one(session: SessionDep) -> None:
    for shelf_id in range(1, 6):
        await session.get(Shelf, shelf_id)


@app.get("/outliving")
async def outlive(session: Annotated[AsyncSession, Depends(database.get_session)]) -> None:
    await session.get(Shelf, 1)


@app.get("/two")
async def use_two(session: SessionDep) -> None:
    await session.get(Shelf, 1)
    async with AsyncSession(database.writer.engine) as other:
        await other.get(Shelf, 1)


@app.get("/slow")
async def be_slow(session: SessionDep) -> None:
    await session.get(Shelf, 1)
    await asyncio.sleep(0.6)
"""

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")


def test_without_trace_nothing_listens() -> None:
    for engine in (database.reader.engine.sync_engine, database.writer.engine.sync_engine):
        for name in ("before_cursor_execute", "after_cursor_execute", "commit", "rollback"):
            assert not list(getattr(engine.dispatch, name))
    assert "connect" not in vars(database.writer.engine.sync_engine.pool)


async def test_without_trace_there_is_no_view(client: httpx.AsyncClient) -> None:
    for path in ("/trace", "/trace/events"):
        assert (await client.get(path)).status_code == 404
    assert "server-timing" not in (await client.get("/shelves")).headers


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the service with routes that make mistakes."""
    tree = copy_library(tmp_path_factory.mktemp("mistaken") / "tree")
    with (tree / "main.py").open("a") as module:
        module.write(MISTAKES)
    return tree


@pytest.fixture
def service(tree: Path, empty_url: URL) -> Iterator[Service]:
    if empty_url.get_backend_name() != "sqlite":
        migrate(empty_url)
    variables: Variables = {
        "DATABASE_URL": empty_url,
        "API_TOKEN": TOKEN,
        "POOL_SIZE": 1,
        "TRACE": 1,
    }
    with Service(variables, tree=tree) as service:
        yield service
        assert " ERROR " not in service.log.read_text()


@pytest.fixture
def page(service: Service) -> Iterator[Page]:
    """The live view of the service, open and listening."""
    with opened() as page:
        page.goto(f"{service.url}/trace")
        page.locator("#state", has_text="request").wait_for(timeout=5000)
        yield page


def steps(page: Page, path: str) -> list[tuple[str, str]]:
    """The steps of the newest card for the path. It must come within a second."""
    card = page.locator(f'#requests > li[data-path="{path}"]').first
    card.wait_for(timeout=1000)
    rows = card.locator(".steps > li").all()
    return [(row.locator(".kind").inner_text(), row.locator(".what").inner_text()) for row in rows]


def warning(page: Page, path: str) -> str:
    card = page.locator(f'#requests > li[data-path="{path}"]').first
    card.wait_for(timeout=1000)
    return " ".join(card.locator(".warning").all_inner_texts())


@pytest.mark.slow
@needs_browser
def test_cards_show_the_statements_in_order(page: Page, service: Service) -> None:
    ends = ["returned", "answered"]
    with service.client() as client:
        created = client.post("/shelves", json={"label": "ada@example.com"})
        seen = steps(page, "/shelves")
        assert [kind for kind, _ in seen] == ["pool", "BEGIN", "statement", "COMMIT", *ends]
        assert "INSERT INTO shelves" in seen[2][1]
        assert "ada@example.com" in seen[2][1]
        assert re.search(r"→ 1 row$", seen[2][1])

        client.get("/shelves?limit=3")
        seen = steps(page, "/shelves?limit=3")
        assert [kind for kind, _ in seen] == ["pool", "statement", *ends]
        assert "SELECT" in seen[1][1]

        path = f"/shelves/{created.json()['id']}"
        client.patch(path, json={"place": "Hall"}, headers={"if-match": "*"})
        seen = steps(page, path)
        kinds = ["pool", "BEGIN", "statement", "statement", "COMMIT", *ends]
        assert [kind for kind, _ in seen] == kinds
        assert "SELECT" in seen[2][1]
        assert "UPDATE shelves SET place" in seen[3][1]

        client.patch("/shelves/999", json={"place": "Nowhere"})
        seen = steps(page, "/shelves/999")
        assert [kind for kind, _ in seen] == ["pool", "BEGIN", "statement", "ROLLBACK", *ends]
        assert warning(page, "/shelves/999") == ""

        keyed = {"idempotency-key": "one"}
        client.post("/books", json={"title": "Card"}, headers=keyed)
        assert "COMMIT" in [kind for kind, _ in steps(page, "/books")]
        client.post("/books/batch", json=[{"title": "Card"}] * 5)
        assert "COMMIT" in [kind for kind, _ in steps(page, "/books/batch")]
    assert page.locator(".warning").count() == 0
    pools = page.locator("[data-pool=writes] dd").all_inner_texts()
    assert pools == ["1", "0", "0"]


@pytest.mark.slow
@needs_browser
def test_mistakes_are_put_into_words(page: Page, service: Service) -> None:
    with service.client() as client:
        client.post("/forgetful")
        assert "nothing was kept" in warning(page, "/forgetful")
        client.get("/one-by-one")
        assert "ran 5 times (N+1)" in warning(page, "/one-by-one")
        client.get("/outliving")
        assert "outlived its response" in warning(page, "/outliving")
        client.get("/two")
        assert "2 sessions" in warning(page, "/two")
        calls = [threading.Thread(target=client.get, args=("/slow",)) for _ in range(2)]
        for call in calls:
            call.start()
        page.locator("[data-pool=reads] div:nth-of-type(3) dd", has_text="1").wait_for(timeout=1000)
        for call in calls:
            call.join()
        page.locator(".warning", has_text="for a connection").wait_for(timeout=1000)
        # A warning belongs to one request, and to no other.
        client.get("/shelves?limit=1")
        assert warning(page, "/shelves?limit=1") == ""


@pytest.mark.slow
@needs_browser
def test_pause_filter_and_clear(page: Page, service: Service) -> None:
    def visible() -> list[str]:
        return page.locator("#requests > li:visible .path").all_inner_texts()

    with service.client() as client:
        page.get_by_role("button", name="Clear").click()  # what the start of the service left there
        client.get("/shelves")
        client.get("/books")
        steps(page, "/books")
        assert visible() == ["/books", "/shelves"]
        page.get_by_label("Path contains").fill("shel")
        assert visible() == ["/shelves"]
        client.get("/shelves?limit=2")
        steps(page, "/shelves?limit=2")
        assert visible() == ["/shelves?limit=2", "/shelves"]
        page.get_by_label("Path contains").fill("")
        # By keyboard: all of the page can be used that way.
        page.get_by_role("button", name="Pause").focus()
        page.keyboard.press("Enter")
        client.get("/books?limit=3")
        page.get_by_role("status").filter(has_text="paused, 1 held back").wait_for(timeout=1000)
        assert "/books?limit=3" not in visible()
        page.keyboard.press("Enter")
        steps(page, "/books?limit=3")
        page.get_by_role("button", name="Clear").click()
        assert visible() == []
        client.get("/books?limit=4")
        steps(page, "/books?limit=4")
        assert visible() == ["/books?limit=4"]


@pytest.mark.slow
@needs_browser
def test_a_thousand_requests_leave_the_page_responsive(page: Page, service: Service) -> None:
    with service.client() as client:
        for number in range(1000):
            client.get(f"/shelves?offset={number}")
    steps(page, "/shelves?offset=999")
    assert page.locator("#requests > li").count() == 200
    frame = page.evaluate(
        "() => new Promise(done => { const began = performance.now();"
        " requestAnimationFrame(() => requestAnimationFrame(() =>"
        " done(performance.now() - began))) })"
    )
    print(f"two frames after 1,000 requests: {frame:.0f} ms")
    assert frame < 500
    page.get_by_label("Path contains").fill("offset=998", timeout=1000)
    assert page.locator("#requests > li:visible").count() == 1


@pytest.mark.slow
@needs_browser
def test_page_fits_a_phone_in_dark_and_light(page: Page, service: Service) -> None:
    with service.client() as client:
        client.post("/shelves", json={"label": "a" * 100, "place": "A" * 100})
    steps(page, "/shelves")
    page.set_viewport_size({"width": 360, "height": 700})
    colours = set()
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


@pytest.mark.slow
def test_view_is_for_this_machine_alone_and_ends_with_the_process(service: Service) -> None:
    for headers in ({"x-forwarded-for": "127.0.0.1"}, {"host": "evil.example"}):
        for path in ("/trace", "/trace/events"):
            assert httpx.get(service.url + path, headers=headers).status_code == 403
    with (
        httpx.Client() as client,
        client.stream("GET", f"{service.url}/trace/events") as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        response = httpx.get(f"{service.url}/shelves", headers=BEARER)
        timing = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
        assert timing.keys() == {"pool", "sql", "commit", "app"}
        assert all(float(time) >= 0 for time in timing.values())
        service.process.terminate()
        for _ in stream.iter_lines():
            pass
    assert service.process.wait(5) is not None
    assert re.search(
        r"GET /shelves 200 \d+\.\d ms, 1 statement \d+\.\d ms", service.log.read_text()
    )


@pytest.mark.slow
@needs_browser
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
            status.wait_for(timeout=5000)
            expected = "200" if name == "update_book" else "201"
            assert status.inner_text().split()[0] == expected, (name, operation.inner_text())
        assert urlsplit(page.url).hostname == "127.0.0.1"
