"""Beyond one machine: a replica for reads, a standby that takes over."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import httpx
import pytest

from nutshell.tests.postgres import Postgres, wait_until
from nutshell.tests.service import (
    BEARER,
    TOKEN,
    Service,
    Variables,
    as_platforms_write,
    frozen,
    migrate,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def pair() -> Iterator[tuple[Postgres, Postgres]]:
    """A primary with a synchronous standby: it acknowledges nothing before the standby has it."""
    primary = Postgres()
    standby = Postgres(primary=primary)
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    primary.execute("SELECT pg_reload_conf()")
    state = "SELECT sync_state FROM pg_stat_replication"
    wait_until(lambda: primary.execute(state) == [("sync",)])
    yield primary, standby
    standby.close()
    primary.close()


def test_reads_go_to_the_replica(pair: tuple[Postgres, Postgres]) -> None:
    primary, standby = pair
    url = primary.create_database("app")
    migrate(url)
    variables: Variables = {
        "DATABASE_URL": url,
        "DATABASE_READ_URL": standby.url("app"),
        "API_TOKEN": TOKEN,
    }
    with Service(variables) as service, service.client() as client:
        book = client.post("/books", json={"title": "Engine"}).json()
        path = f"/books/{book['id']}"
        wait_until(lambda: client.get(path).status_code != 404)
        assert client.get(path).json() == book
        assert client.patch(path, json={"title": "Card"}).status_code == 200
        assert "SELECT books" in standby.log.read_text()
        assert "INSERT INTO books" not in standby.log.read_text()
        assert "INSERT INTO books" in primary.log.read_text()


def test_standby_takes_over_and_no_acknowledged_write_is_lost(
    pair: tuple[Postgres, Postgres],
) -> None:
    primary, standby = pair
    url = primary.create_database("app")
    migrate(url)
    first, second = f"127.0.0.1:{primary.port}", f"127.0.0.1:{standby.port}"
    both = as_platforms_write(url).replace(first, f"{first},{second}")
    variables: Variables = {
        "DATABASE_URL": f"{both}?target_session_attrs=read-write",
        "API_TOKEN": TOKEN,
        "WEB_CONCURRENCY": 2,
    }
    acknowledged: list[tuple[float, int]] = []
    failures: list[int] = []
    stop = threading.Event()
    numbers = count()

    def write(client: httpx.Client) -> None:
        while not stop.is_set():
            response = client.post("/books", json={"title": f"Book {next(numbers)}"})
            if response.status_code == 201:
                acknowledged.append((time.monotonic(), response.json()["id"]))
            else:
                failures.append(response.status_code)
                time.sleep(0.1)

    with Service(variables) as service, ThreadPoolExecutor(8) as pool:
        clients = [httpx.Client(base_url=service.url, headers=BEARER, timeout=30) for _ in range(8)]
        writers = [pool.submit(write, client) for client in clients]
        try:
            time.sleep(2)
            primary.kill()
            killed = time.monotonic()
            time.sleep(1)
            standby.execute("SELECT pg_promote()")
            # This was copied from the primary. The promoted standby would wait for a standby of its own.
            standby.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
            standby.execute("SELECT pg_reload_conf()")
            time.sleep(6)
        finally:
            stop.set()
        for writer in writers:
            writer.result()
        for client in clients:
            client.close()
        assert httpx.get(f"{service.url}/readyz").status_code == 200
    before = [row for when, row in acknowledged if when < killed]
    after = [row for when, row in acknowledged if when > killed + 1]
    stored = {row for (row,) in standby.execute("SELECT id FROM books", "app")}
    print(f"acknowledged before {len(before)}, after {len(after)}, 503s {len(failures)}")
    assert len(before) > 20
    assert len(after) > 20
    assert {row for _, row in acknowledged} <= stored
    assert set(failures) <= {503}
    assert failures, "the primary was really killed under load"


def test_write_that_the_standby_does_not_have_is_not_acknowledged(
    pair: tuple[Postgres, Postgres],
) -> None:
    """A commit that is cancelled while it waits for the standby counts as done on the primary."""
    primary, standby = pair
    url = primary.create_database("app")
    migrate(url)
    key = {"idempotency-key": "one"}
    variables: Variables = {"DATABASE_URL": url, "API_TOKEN": TOKEN}
    with Service(variables) as service, service.client() as client:
        assert client.post("/books", json={"title": "before"}).status_code == 201
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        with frozen(standby):
            for title, headers in (("plain", {}), ("keyed", key), ("keyed", key)):
                answer = client.post("/books", json={"title": title}, headers=headers)
                assert answer.status_code == 503
                # The server is asked to stop, once the answer is on its way.
                wait_until(lambda: primary.execute(waiting) == [(0,)])
        assert client.post("/books", json={"title": "keyed"}, headers=key).status_code == 201
        assert "DETAIL:  The transaction has already committed locally" in primary.log.read_text()
    titles = "SELECT title FROM books ORDER BY id"
    assert standby.execute(titles, "app") == [("before",), ("plain",), ("keyed",)]
