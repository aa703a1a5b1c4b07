"""Many clients, several worker processes, one row: one wins, and nothing is lost."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import URL, create_engine, text

from nutshell.tests.service import BEARER, TOKEN, Service, Variables, migrate

pytestmark = pytest.mark.slow

CLIENTS = 50


@pytest.fixture
def service(empty_url: URL) -> Iterator[Service]:
    if empty_url.get_backend_name() != "sqlite":
        migrate(empty_url)
    variables: Variables = {"DATABASE_URL": empty_url, "API_TOKEN": TOKEN, "WEB_CONCURRENCY": 3}
    with Service(variables) as service:
        yield service
        log = service.log.read_text()
        assert " ERROR " not in log
        assert "database is locked" not in log


def at_once(service: Service, call: Callable[[httpx.Client, int], httpx.Response]) -> list[int]:
    """Makes one call per client, all at the same moment, and returns their statuses."""
    barrier = threading.Barrier(CLIENTS)

    def run(number: int) -> int:
        with service.client() as client:
            assert client.get("/healthz").status_code == 200
            barrier.wait(30)
            return call(client, number).status_code

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(run, range(CLIENTS)))


def rows(url: URL, query: str) -> list[Any]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(query))]
    engine.dispose()
    return found


def test_many_create_the_same_label(service: Service, empty_url: URL) -> None:
    shelf = {"label": "Top"}
    statuses = at_once(service, lambda client, _: client.post("/shelves", json=shelf))
    assert Counter(statuses) == {201: 1, 409: CLIENTS - 1}
    assert rows(empty_url, "SELECT label FROM shelves") == [("Top",)]


def test_many_update_one_row_each_its_own_field(service: Service) -> None:
    with service.client() as client:
        owner = client.post("/shelves", json={"label": "Top"}).json()["id"]
        book = client.post("/books", json={"title": "a", "shelf_id": owner}).json()
        path = f"/books/{book['id']}"
        changes: list[dict[str, Any]] = [
            {"title": "changed"},
            {"text": "changed"},
            {"shelf_id": None},
        ]

        def change(client: httpx.Client, number: int) -> httpx.Response:
            return client.patch(path, json=changes[number % len(changes)])

        assert set(at_once(service, change)) == {200}
        expected = changes[0] | changes[1] | changes[2]
        assert expected.items() <= client.get(path).json().items()


def test_of_many_conditional_updates_one_wins(service: Service) -> None:
    with service.client() as client:
        book = client.post("/books", json={"title": "a"})
        path, tag = book.headers["location"], book.headers["etag"]

        def change(client: httpx.Client, number: int) -> httpx.Response:
            return client.patch(path, json={"title": f"{number}"}, headers={"if-match": tag})

        statuses = at_once(service, change)
        assert Counter(statuses) == {200: 1, 412: CLIENTS - 1}
        assert client.get(path).json()["title"] == f"{statuses.index(200)}"


def test_many_send_one_key(service: Service, empty_url: URL) -> None:
    headers = BEARER | {"idempotency-key": "one"}

    def create(client: httpx.Client, _: int) -> httpx.Response:
        return client.post("/books", json={"title": "one"}, headers=headers)

    statuses = Counter(at_once(service, create))
    assert statuses.keys() <= {201, 409}
    assert statuses[201] >= 1
    assert rows(empty_url, "SELECT title FROM books") == [("one",)]


def test_shelf_is_deleted_while_others_put_books_on_it(service: Service, empty_url: URL) -> None:
    with service.client() as client:
        shelf = client.post("/shelves", json={"label": "Top"}).json()["id"]

        def act(client: httpx.Client, number: int) -> httpx.Response:
            if number == CLIENTS // 2:
                time.sleep(0.05)
                return client.delete(f"/shelves/{shelf}")
            return client.post("/books", json={"title": "a", "shelf_id": shelf})

        statuses = Counter(at_once(service, act))
        assert statuses.keys() <= {201, 204, 404, 409}
        assert statuses[204] == 1
    left = "SELECT count(*) FROM books WHERE shelf_id IS NOT NULL"
    assert rows(empty_url, left) == [(0,)]


def test_sixty_four_writers_for_half_a_minute(service: Service, empty_url: URL) -> None:
    if empty_url.get_backend_name() != "sqlite":
        pytest.skip("the writers' queue is SQLite's")
    stop = time.monotonic() + 30
    statuses: Counter[int] = Counter()
    acknowledged: list[int] = []

    def write(number: int) -> None:
        with service.client() as client:
            while time.monotonic() < stop:
                response = client.post("/books", json={"title": f"{number}"})
                statuses[response.status_code] += 1
                if response.status_code == 201:
                    acknowledged.append(response.json()["id"])

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(write, range(64)))
    print(f"64 writers on SQLite, 30 s: {dict(statuses)}")
    assert statuses.keys() == {201}
    stored = {row for (row,) in rows(empty_url, "SELECT id FROM books")}
    assert stored == set(acknowledged)
    assert len(acknowledged) == len(stored)
